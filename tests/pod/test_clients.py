"""Who asks: named clients sign with secrets of their own, and the log says who it was."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared_auth.contract import EMBED_TEXT, EMBED_TEXT_BATCH
from tools.testbed import exposition
from tools.testbed.process import PodProcess, pod_process
from tools.testbed.target import PodTarget, signed_text

SECRETS = {"indexer": "i" * 32, "search": "s" * 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("secrets")


@pytest.fixture(scope="module")
def pod(folder: Path) -> Iterator[PodProcess]:
    """A pod whose clients are in a mounted file."""
    mounted = folder / "clients"
    mounted.write_text(",".join(f"{name}:{secret}" for name, secret in SECRETS.items()) + "\n")
    with pod_process({"EMBEDDING_HMAC_CLIENTS_FILE": str(mounted)}) as process:
        yield process


def clients_of(pod: PodProcess, request_ids: list[str]) -> list[str | None]:
    of_id = {line["request_id"]: line["client"] for line in pod.log_lines() if line["message"] == "request"}
    return [of_id[request_id] for request_id in request_ids]


def test_log_names_the_client_and_no_secret(pod: PodProcess) -> None:
    """The common secret is that of `default`; a stranger has no name."""
    target = PodTarget(pod.base_url)
    signed = [signed_text("a", secret=secret, request_id=name) for name, secret in SECRETS.items()]
    answers = [target.send(EMBED_TEXT, body) for body in [*signed, signed_text("a", request_id="common")]]
    stranger = target.send(EMBED_TEXT, signed_text("a", secret="x" * 32, request_id="stranger"))

    assert [None, None, None, "AUTH_FAILED"] == [answer.code for answer in [*answers, stranger]]
    names = clients_of(pod, ["indexer", "search", "common", "stranger"])
    assert ["indexer", "search", "default", None] == names
    assert not any(secret in pod.log() for secret in SECRETS.values())


def test_metrics_count_by_client(pod: PodProcess) -> None:
    """In items; a request that is refused for its signature is nobody's."""
    before = items_of(pod)
    target = PodTarget(pod.base_url)
    secret = SECRETS["indexer"]
    items = [signed_text(text, secret=secret, path=EMBED_TEXT_BATCH, request_id=text) for text in ("b", "c", "d")]
    target.send(EMBED_TEXT_BATCH, {"items": items})
    target.send(EMBED_TEXT, signed_text("e", secret=SECRETS["search"]))
    target.send(EMBED_TEXT, signed_text("f", secret="x" * 32))
    after = items_of(pod)

    assert (3, 1) == tuple(after[name] - before.get(name, 0) for name in ("indexer", "search"))
    assert {"indexer", "search"} <= after.keys() <= {"indexer", "search", "default"}


def items_of(pod: PodProcess) -> dict[str, float]:
    samples = [one for one in exposition.samples(pod.base_url) if one.name == "clip_client_items_total"]
    return {one.labels["client"]: one.value for one in samples}


def test_batch_is_of_one_client(pod: PodProcess) -> None:
    """It is counted, limited and logged as one client's."""
    items = [
        signed_text(name, secret=secret, path=EMBED_TEXT_BATCH, request_id=name) for name, secret in SECRETS.items()
    ]
    answer = PodTarget(pod.base_url).send(EMBED_TEXT_BATCH, {"items": items})

    assert "VALIDATION_ERROR" == answer.code
