"""The field's own clients, unchanged, against the pod: each in a process of its own, as a user's program is."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from models.shapes import draw, single
from shared_auth.contract import EMBED_IMAGE, EMBED_TEXT
from tools.testbed.control_plane import API_KEY as PLANE_KEY
from tools.testbed.control_plane import ENDPOINT_ID, ControlPlane
from tools.testbed.image_server import ImageServer
from tools.testbed.pictures import encoded
from tools.testbed.process import API_KEY, PodProcess, ServiceProcess, pod_process
from tools.testbed.target import PodTarget, signed_image, signed_text

TEXTS = ["a red circle", "a blue square"]
TOLERANCE = 1e-3

OPENAI = """
from openai import OpenAI
client = OpenAI(base_url=base_url, api_key=api_key)
answer = client.embeddings.create(model="tiny-shapes", input=texts)
assert answer.usage.prompt_tokens == 10
assert [model.id for model in client.models.list()] == ["tiny-shapes"]
vectors = [datum.embedding for datum in answer.data]
"""

OPENAI_ASYNC = """
import asyncio
from openai import AsyncOpenAI

async def main():
    async with AsyncOpenAI(base_url=base_url, api_key=api_key) as client:
        answers = [client.embeddings.create(model="tiny-shapes", input=text) for text in texts]
        return [answer.data[0].embedding for answer in await asyncio.gather(*answers)]

vectors = asyncio.run(main())
"""

LANGCHAIN = """
from langchain_openai import OpenAIEmbeddings
embeddings = OpenAIEmbeddings(
    model="tiny-shapes", base_url=base_url, api_key=api_key, check_embedding_ctx_length=False
)
vectors = embeddings.embed_documents(texts)
assert embeddings.embed_query(texts[0]) is not None
"""

LLAMA_INDEX = """
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
embedding = OpenAILikeEmbedding(model_name="tiny-shapes", api_base=base_url, api_key=api_key)
vectors = embedding.get_text_embedding_batch(texts)
"""

OPENAI_IMAGES = """
from openai import OpenAI
client = OpenAI(base_url=base_url, api_key=api_key)
answer = client.embeddings.create(model="tiny-shapes", input=texts, extra_body={"modality": "image"})
vectors = [datum.embedding for datum in answer.data]
"""

OPENAI_ERRORS = """
import openai
vectors = []
def kind(call):
    try:
        call()
    except openai.APIStatusError as error:
        vectors.append([type(error).__name__, error.code, error.param])
client = openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0)
kind(lambda: client.embeddings.create(model="gpt-4", input="a"))
kind(lambda: client.embeddings.create(model="tiny-shapes", input=["a", ""]))
kind(lambda: client.embeddings.create(model="tiny-shapes", input="a", dimensions=256))
stranger = openai.OpenAI(base_url=base_url, api_key="wrong", max_retries=0)
kind(lambda: stranger.embeddings.create(model="tiny-shapes", input="a"))
kind(lambda: stranger.models.list())
"""


def outcome(program: str, base_url: str, texts: list[str], *, key: str = API_KEY) -> list[list[Any]]:
    """What `program` leaves in `vectors`."""
    given = f"base_url, api_key, texts = {base_url + '/v1'!r}, {key!r}, {texts!r}\n"
    command = [sys.executable, "-c", f"{given}{program}\nimport json; print(json.dumps(vectors))"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stderr
    vectors: list[list[Any]] = json.loads(ran.stdout.splitlines()[-1])
    return vectors


def distance(expected: npt.NDArray[np.float32], actual: list[float]) -> float:
    return float(np.linalg.norm(expected - np.asarray(actual, dtype=np.float32)))


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(OPENAI, id="openai"),
        pytest.param(OPENAI_ASYNC, id="openai, async"),
        pytest.param(LANGCHAIN, id="langchain"),
        pytest.param(LLAMA_INDEX, id="llama-index"),
    ],
)
def test_texts(program: str, pod: PodProcess, pod_target: PodTarget) -> None:
    """Vectors are those of the signed operation, in order."""
    vectors = outcome(program, pod.base_url, TEXTS)

    assert len(TEXTS) == len(vectors)
    for text, vector in zip(TEXTS, vectors, strict=True):
        assert TOLERANCE > distance(pod_target.send(EMBED_TEXT, signed_text(text)).vector, vector)


def test_images(pod: PodProcess, pod_target: PodTarget, images: ImageServer) -> None:
    """OpenAI's client passes on what is ours."""
    url = images.add("/ecosystem.png", encoded(draw(single("red", "circle"), 100), "PNG"))
    [vector] = outcome(OPENAI_IMAGES, pod.base_url, [url])

    assert TOLERANCE > distance(pod_target.send(EMBED_IMAGE, signed_image(url)).vector, vector)


def test_serverless(plane: ControlPlane, handler: ServiceProcess, pod_target: PodTarget) -> None:
    """An endpoint is asked with RunPod's own key, at the address where RunPod has put it."""
    address = f"{plane.base_url}/{ENDPOINT_ID}/openai"
    vectors = outcome(OPENAI, address, TEXTS, key=PLANE_KEY)

    for text, vector in zip(TEXTS, vectors, strict=True):
        assert TOLERANCE > distance(pod_target.send(EMBED_TEXT, signed_text(text)).vector, vector)


def test_errors_are_those_of_the_client(pod: PodProcess) -> None:
    """Its own classes, by status; code and member at fault are there to read."""
    assert [
        ["NotFoundError", "NOT_FOUND", "model"],
        ["BadRequestError", "VALIDATION_ERROR", "input[1]"],
        ["BadRequestError", "VALIDATION_ERROR", "dimensions"],
        ["AuthenticationError", "invalid_api_key", None],
        ["AuthenticationError", "invalid_api_key", None],
    ] == outcome(OPENAI_ERRORS, pod.base_url, [])


def test_without_keys_there_is_no_such_path() -> None:
    """Nobody is let in by leaving the keys away."""
    with pod_process({"API_KEYS": ""}) as keyless:
        kinds = outcome(OPENAI_ERRORS, keyless.base_url, [])

    assert [["NotFoundError", "NOT_FOUND", None]] * 5 == kinds
