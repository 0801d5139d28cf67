"""Prints one trace: a call whose pod is full, and which the serverless worker answers. `make trace-example`.

Client, pod, handler and receiver of traces are real and of this machine, as is the little RunPod between two of them.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

from clip_embedding_client import ClientSettings, ClipClient, ClipClientError

from tools.testbed.control_plane import API_KEY, ENDPOINT_ID, control_plane
from tools.testbed.held import held_image
from tools.testbed.image_server import image_server
from tools.testbed.process import SECRET, TINY_MODEL, handler_process, pod_process
from tools.testbed.trace_receiver import Span, trace_receiver

_EXAMPLES = ("red-circle.png", "blue-square.png", "green-triangle.png")
# It takes three at once, and has one when it is asked for three.
_PLACES = {"MAX_QUEUED_ITEMS": "3"}
_CALL = "embed batch"
_SERVICE_WIDTH, _NAME_WIDTH = 26, 36
# What is told of a span, in this order.
_SHOWN = ("http.response.status_code", "error.type", "clip.items", "clip.image.items", "clip.failed_items")


def main() -> None:
    with ExitStack() as stack:
        receiver = stack.enter_context(trace_receiver())
        telling = receiver.environment()
        plane = stack.enter_context(control_plane())
        handler = stack.enter_context(handler_process({**plane.worker_environment(), **telling}))
        pod = stack.enter_context(pod_process({**_PLACES, **telling}))
        handler.wait_for_log("model ready")
        images = stack.enter_context(image_server())
        urls = [images.add(f"/{name}", (TINY_MODEL / "examples" / name).read_bytes()) for name in _EXAMPLES]
        # OpenTelemetry reads the environment of its process, here as everywhere.
        os.environ.update(telling)
        with held_image(pod.base_url, images), ClipClient(_settings(pod.base_url, plane.base_url)) as client:
            failed = [result for result in client.embed_images(urls) if isinstance(result, ClipClientError)]
        [call] = receiver.wait_for(_CALL)
        receiver.wait_for("forward", service="clip-embedding-serverless")
        receiver.wait_for("POST /v1/embed/image-batch")
    if failed:
        sys.exit(f"not answered: {failed[0].code}")
    print("\n".join(lines([span for span in receiver.spans if span.trace_id == call.trace_id])))


def lines(spans: Sequence[Span]) -> Iterator[str]:
    """One trace as a tree, each span below its parent, in the order of their begins."""
    yield f"trace {spans[0].trace_id}"
    yield from _below("", sorted(spans, key=lambda span: span.began_ns), depth=0)


def _below(parent_id: str, spans: Sequence[Span], depth: int) -> Iterator[str]:
    for span in spans:
        if span.parent_id == parent_id:
            yield _line(span, depth)
            yield from _below(span.span_id, spans, depth + 1)


def _line(span: Span, depth: int) -> str:
    name = "  " * depth + span.name
    took_ms = (span.ended_ns - span.began_ns) / 1e6
    told = "  ".join(f"{key}={span.attributes[key]}" for key in _SHOWN if key in span.attributes)
    return f"{span.service:<{_SERVICE_WIDTH}}{name:<{_NAME_WIDTH}}{took_ms:8.1f} ms  {told}".rstrip()


def _settings(pod_url: str, plane_url: str) -> ClientSettings:
    environ: Mapping[str, str] = {
        "CLIP_INFERENCE_BACKEND": "runpod_pod",
        "CLIP_FALLBACK_BACKEND": "runpod_serverless",
        "CLIP_POD_BASE_URL": pod_url,
        "RUNPOD_BASE_URL": plane_url,
        "RUNPOD_API_KEY": API_KEY,
        "RUNPOD_CLIP_ENDPOINT_ID": ENDPOINT_ID,
        "CLIP_RETRY_ATTEMPTS": "2",
        "EMBEDDING_HMAC_SECRET": SECRET,
    }
    return ClientSettings.from_environ(environ)


if __name__ == "__main__":
    main()
