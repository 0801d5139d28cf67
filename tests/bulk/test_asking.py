"""Vectors by the client of this service, from a real pod."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from clip_embedding_client import ClientSettings, ClipClient, Embedding

from bulk.asking import Asker
from bulk.errors import BulkError
from bulk.inputs import Kind
from bulk.outcomes import Reject
from bulk.places import Place
from bulk.sources import Source
from tests.client.scripted import (
    DIM,
    FINGERPRINT,
    Body,
    Reply,
    Seen,
    error_reply,
    item_error,
    json_reply,
    page,
    scripted_server,
    success,
)
from tools.testbed.image_server import ImageServer
from tools.testbed.loopback import kept_port
from tools.testbed.pictures import encoded, natural
from tools.testbed.process import SECRET, PodProcess

TOLERANCE = 1e-4
MAX_BYTES = 100_000


def environ(base_url: str) -> dict[str, str]:
    return {
        "CLIP_INFERENCE_BACKEND": "runpod_pod",
        "CLIP_POD_BASE_URL": base_url,
        "EMBEDDING_HMAC_SECRET": SECRET,
        "CLIP_RETRY_ATTEMPTS": "1",
    }


def test_rows_are_what_the_pod_says(pod: PodProcess, images: ImageServer, tmp_path: Path) -> None:
    """By URL, file and bytes, each in its place, with the pod's own code where there is no vector."""
    data = encoded(natural(50, 40, 5), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    url = images.add("/asked.png", data)
    asker = Asker(environ(pod.base_url), MAX_BYTES)
    model = asker.model()

    sources: list[Source] = [url, None, Place.of(str(tmp_path / "a.png")), data, images.base_url + "/asked-missing.png"]
    sources += [Place.of(str(tmp_path / "none.png")), Reject("FILE_UNREADABLE", "no such scheme", retryable=True)]
    vectors, rejects = asker.ask(sources, dim=model.dim, kind=Kind.IMAGE_PATH)
    texts, none = asker.ask(["a red circle", None], dim=model.dim, kind=Kind.TEXT)
    with ClipClient(ClientSettings.from_environ(environ(pod.base_url))) as client:
        image, text = client.embed_image(url), client.embed_text("a red circle")

    assert (image.fingerprint, 512, "tiny-shapes") == (model.fingerprint, model.dim, model.name)
    codes = [None, "VALIDATION_ERROR", None, None, "DOWNLOAD_ERROR", "FILE_UNREADABLE", "FILE_UNREADABLE"]
    assert codes == [reject and reject.code for reject in rejects]
    for row in (0, 2, 3):
        assert float(np.linalg.norm(image.vector - vectors[row])) < TOLERANCE
    assert isinstance(text, Embedding)
    assert float(np.linalg.norm(text.vector - texts[0])) < TOLERANCE
    assert [None, "VALIDATION_ERROR"] == [reject and reject.code for reject in none]


def test_vectors_of_another_model_are_refused(pod: PodProcess) -> None:
    """The run ends: they could not be mixed."""
    asker = Asker(environ(pod.base_url), MAX_BYTES, fingerprint="2:0000")

    with pytest.raises(BulkError, match="fingerprint"):
        asker.ask(["a red circle"], dim=512, kind=Kind.TEXT)


def test_a_service_that_is_away_ends_the_run() -> None:
    """Its rows are not at fault: none of them is rejected, and one line says how to go on."""
    with kept_port() as port:
        asker = Asker(environ(f"http://127.0.0.1:{port}"), MAX_BYTES)

        with pytest.raises(BulkError, match="--resume") as caught:
            asker.ask(["a red circle", None], dim=512, kind=Kind.TEXT)
        with pytest.raises(BulkError, match="the service does not answer"):
            asker.model()
    assert 1 == len(str(caught.value).splitlines())


def failing_on(*bad: str) -> Callable[[Seen], Reply]:
    """A service whose model fails on these, and on nothing else."""

    def answer(seen: Seen) -> Reply:
        items: list[Body] = seen.body["items"]
        results = [
            item_error(item, "INFERENCE_ERROR") if item.get("text", item.get("image_url")) in bad else success(item)
            for item in items
        ]
        return json_reply({"results": results, "fingerprint": FINGERPRINT})

    return answer


@pytest.mark.parametrize(("kind", "row"), [(Kind.TEXT, "red"), (Kind.IMAGE_PATH, "http://a/b.png")])
def test_rows_that_the_model_fails_on_are_rejects(kind: Kind, row: str) -> None:
    """Also where a piece has no others, as a retry's has: a run that ended there could never be finished."""
    with scripted_server(failing_on(row)) as script:
        vectors, [reject] = Asker(environ(script.base_url), MAX_BYTES).ask([row], dim=DIM, kind=kind)

    assert isinstance(reject, Reject)
    assert ("INFERENCE_ERROR", True) == (reject.code, reject.retryable)
    assert 0.0 == float(np.abs(vectors).max())


def test_what_is_easy_is_in_no_cache() -> None:
    """Else a service whose model does nothing any more could have it, and every row would be a reject."""
    rows = {Kind.TEXT: "red", Kind.IMAGE_PATH: "http://a/red.png"}
    with scripted_server(failing_on(*rows.values())) as script:
        asker = Asker(environ(script.base_url), MAX_BYTES)
        for kind, row in 2 * list(rows.items()):
            asker.ask([row], dim=DIM, kind=kind)
    items = [seen.body["items"][0] for seen in script.seen]
    asked = [item.get("text") or item.get("image_url") or item["image_b64"] for item in items]
    easy = [one for one in asked if one not in rows.values()]

    assert (4, 4) == (len(easy), len(set(easy)))


def test_model_that_fails_on_everything_ends_the_run() -> None:
    """No row is at fault then."""
    with (
        scripted_server(
            lambda seen: json_reply({"results": [item_error(seen.body["items"][0], "INFERENCE_ERROR")]})
        ) as script,
        pytest.raises(BulkError, match="--resume"),
    ):
        Asker(environ(script.base_url), MAX_BYTES).ask(["red"], dim=DIM, kind=Kind.TEXT)


@dataclass(slots=True)
class Limited:
    """A service that takes `most` characters of texts in the time that it says, and time that passes in `sleep`."""

    most: int
    wait_s: int | None = 60
    room: int = 0
    slept: list[float] = field(default_factory=list)

    def answer(self, seen: Seen) -> Reply:
        cost = sum(len(item["text"]) for item in seen.body["items"])
        if cost > self.room:
            headers = {} if self.wait_s is None else {"Retry_After": str(self.wait_s)}
            return error_reply("RATE_LIMITED", 429, retryable=True, **headers)
        self.room -= cost
        return json_reply(success(seen.body))

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.room = self.most

    def ask(self, texts: list[str], batch: int) -> tuple[int, list[Reject | None]]:
        """How many requests it took, and what was rejected."""
        with scripted_server(self.answer) as script:
            given = environ(script.base_url) | {"CLIP_TEXT_BATCH_SIZE": str(batch)}
            asker = Asker(given, MAX_BYTES, sleep=self.sleep)
            vectors, rejects = asker.ask(texts, dim=DIM, kind=Kind.TEXT)
        has_vector = [bool(vector.any()) for vector in vectors]
        assert [reject is None for reject in rejects] == has_vector
        return len(script.seen), rejects


LETTERS = "abcdefghijklmnop"


def test_rows_over_a_limit_are_asked_for_again() -> None:
    """When the service says that there is room, also where the whole piece had none: they are no rejects."""
    some, none = Limited(most=8, room=8), Limited(most=4, wait_s=None)

    assert [None] * 16 == some.ask(list(LETTERS), batch=4)[1]
    assert [60.0] == some.slept
    assert [None] * 4 == none.ask(list(LETTERS[:4]), batch=4)[1]
    assert [10.0] == none.slept


def test_request_larger_than_a_limit_becomes_smaller() -> None:
    """However long one waits, it never fits; its rows do."""
    limited = Limited(most=3)

    assert [None] * 16 == limited.ask(list(LETTERS), batch=8)[1]
    assert limited.slept == [60.0] * len(limited.slept)


def test_row_larger_than_a_limit_is_a_reject() -> None:
    """It is asked for so often and no more; the others of its piece are embedded."""
    limited = Limited(most=15)

    requests, rejects = limited.ask(["a", "b" * 20, "c"], batch=4)

    assert [None, "RATE_LIMITED", None] == [reject and reject.code for reject in rejects]
    assert requests < 20


def test_piece_of_rows_larger_than_a_limit_is_rejects() -> None:
    """As a retry has them: a run that ended there could never be finished."""
    [reject] = Limited(most=15).ask(["b" * 20], batch=4)[1]

    assert isinstance(reject, Reject)
    assert ("RATE_LIMITED", True) == (reject.code, reject.retryable)


@pytest.mark.parametrize("wait_s", [pytest.param(1, id="soon"), pytest.param(86400, id="tomorrow")])
def test_service_that_lets_nothing_in_ends_the_run(wait_s: int) -> None:
    """After some pauses, none of which is a day; its rows are not at fault."""
    limited = Limited(most=0, wait_s=wait_s)

    with pytest.raises(BulkError, match=r"lets nothing in: RATE_LIMITED: .*--resume"):
        limited.ask(list(LETTERS), batch=4)

    assert limited.slept == [1.0] * len(limited.slept)
    assert len(limited.slept) < 20


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(error_reply("AUTH_EXPIRED", 401, retryable=False), id="clock"),
        pytest.param(error_reply("BATCH_TOO_LARGE", 413, retryable=False), id="batch size"),
        pytest.param(page(404), id="address"),
    ],
)
def test_a_service_that_is_set_up_wrongly_ends_the_run(reply: Reply) -> None:
    """So does what was said of every row and is no word about any: a retry would leave such rejects out for good."""
    with scripted_server(reply) as script, pytest.raises(BulkError):
        Asker(environ(script.base_url), MAX_BYTES).ask(["a red circle", "a blue square"], dim=512, kind=Kind.TEXT)


def test_settings_of_no_use() -> None:
    """Said by the client itself, in one line."""
    with pytest.raises(BulkError, match="CLIP_INFERENCE_BACKEND"):
        Asker({"CLIP_INFERENCE_BACKEND": "nobody"}, MAX_BYTES)
