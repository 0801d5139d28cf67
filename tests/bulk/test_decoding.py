"""Images to pixels by the service's own image processes, from a real server, files and bytes."""

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from bulk.decoding import Decoder
from bulk.hosts import Need, Places
from bulk.outcomes import Reject
from bulk.places import Place
from bulk.sources import Source
from core.settings import ServiceSettings, load_settings
from tests.core.images.scripted_child import NO_START
from tools.testbed.image_server import ImageServer, image_server
from tools.testbed.pictures import encoded, natural
from tools.testbed.process import TINY_MODEL

SIZE_PX = 64
MAX_BYTES = 20_000
PER_HOST = 3
SOON_S = 180.0
SCRIPTED = "tests.core.images.scripted_child"


class OneMachine:
    """Places of one machine alone; whoever it asks may be away for a while."""

    def __init__(self, limit: int) -> None:
        self.places = Places(limit)
        self.away = 0

    def ask(self, needs: Mapping[str, Need]) -> dict[str, int]:
        if self.away:
            self.away -= 1
            raise ConnectionError
        return self.places.ask("me", needs)


@pytest.fixture(scope="module")
def settings() -> ServiceSettings:
    return load_settings(
        {
            "CLIP_MODEL": str(TINY_MODEL),
            "ALLOW_INSECURE_AUTH": "1",
            "DOWNLOAD_ALLOW_HOSTS": "127.0.0.1,localhost",
            "MAX_IMAGE_SIZE_BYTES": str(MAX_BYTES),
        }
    )


@pytest.fixture(scope="module")
def hosts() -> OneMachine:
    return OneMachine(PER_HOST)


@pytest.fixture(scope="module")
def decoder(settings: ServiceSettings, hosts: OneMachine) -> Iterator[Decoder]:
    made = Decoder(settings, SIZE_PX, processes=2, hosts=hosts)
    yield made
    made.close()


@pytest.fixture
def server() -> Iterator[ImageServer]:
    """Of one test: what it counts is that test's."""
    with image_server() as running:
        yield running


def picture(seed: int) -> bytes:
    return encoded(natural(50, 40, seed), "JPEG")


def test_an_image_is_the_same_wherever_it_lies(decoder: Decoder, server: ImageServer, tmp_path: Path) -> None:
    """By URL, as a file and as bytes; each in its place."""
    sources: list[Source] = []
    for seed in range(12):
        data = picture(seed)
        (tmp_path / f"{seed}.jpg").write_bytes(data)
        sources += [server.add(f"/{seed}.jpg", data), Place.of(str(tmp_path / f"{seed}.jpg")), data]

    pixels, rejects = decoder.pixels(sources)

    assert [None] * 36 == rejects
    assert (36, 3, SIZE_PX, SIZE_PX) == pixels.shape
    for seed in range(12):
        assert np.array_equal(pixels[3 * seed], pixels[3 * seed + 1])
        assert np.array_equal(pixels[3 * seed], pixels[3 * seed + 2])
    assert 12 == len({pixels[3 * seed].tobytes() for seed in range(12)})


def test_what_is_wrong_with_an_image_is_its_rows(decoder: Decoder, server: ImageServer, tmp_path: Path) -> None:
    """With the service's own code, and whether it could be had later; the others are none the worse."""
    server.add("/busy.jpg", picture(1))
    server.busy.add("/busy.jpg")
    server.add("/large.jpg", bytes(MAX_BYTES + 1))
    (tmp_path / "large.jpg").write_bytes(bytes(MAX_BYTES + 1))
    given: dict[str, tuple[Source, str | None, bool]] = {
        "good": (server.add("/good.jpg", picture(0)), None, False),
        "nothing": (None, "VALIDATION_ERROR", False),
        "empty URL": ("", "VALIDATION_ERROR", False),
        "long URL": ("http://127.0.0.1/" + "a" * 5000, "VALIDATION_ERROR", False),
        "no URL": ("not a URL", "URL_NOT_ALLOWED", False),
        "private": ("http://10.0.0.1/a.jpg", "URL_NOT_ALLOWED", False),
        "missing": (server.base_url + "/missing.jpg", "DOWNLOAD_ERROR", False),
        "busy": (server.base_url + "/busy.jpg", "DOWNLOAD_ERROR", True),
        "large": (server.base_url + "/large.jpg", "IMAGE_TOO_LARGE", False),
        "large file": (Place.of(str(tmp_path / "large.jpg")), "IMAGE_TOO_LARGE", False),
        "large bytes": (bytes(MAX_BYTES + 1), "IMAGE_TOO_LARGE", False),
        "no bytes": (b"", "INVALID_IMAGE", False),
        "no image": (b"not an image", "INVALID_IMAGE", False),
        "missing file": (Place.of(str(tmp_path / "missing.jpg")), "FILE_UNREADABLE", False),
        "folder": (Place.of(str(tmp_path)), "FILE_UNREADABLE", False),
        "not now": (Place.of("/proc/self/mem"), "FILE_UNREADABLE", True),
        "no place": (Reject("FILE_UNREADABLE", "no such scheme", retryable=True), "FILE_UNREADABLE", True),
    }

    pixels, rejects = decoder.pixels([source for source, _, _ in given.values()])

    assert {name: (code, again) for name, (_, code, again) in given.items()} == {
        name: (reject.code, reject.retryable) if reject else (None, False)
        for name, reject in zip(given, rejects, strict=True)
    }
    assert pixels[0].any()
    assert not pixels[1:].any()


def test_a_host_has_no_more_than_its_places(decoder: Decoder, server: ImageServer) -> None:
    """However many images of it wait, in how many calls; and they all come."""
    urls = [server.add(f"/{seed}.jpg", picture(seed)) for seed in range(30)]
    _, gate = server.add_gated("/0.jpg", picture(0))
    server.gates |= {f"/{seed}.jpg": gate for seed in range(30)}
    found: list[list[Reject | None]] = []
    threads = [Thread(target=lambda: found.append(decoder.pixels(urls)[1])) for _ in range(3)]
    for thread in threads:
        thread.start()
    # Answered at once, one could be done before the next is asked for.
    for _ in range(PER_HOST):
        gate.wait_for_request()
    gate.open()
    for thread in threads:
        thread.join()

    assert [[None] * 30] * 3 == found
    assert PER_HOST == server.most_at_once


def test_a_slow_host_holds_nobody_up(decoder: Decoder, server: ImageServer) -> None:
    """Its images wait by themselves: others come while none of its has."""
    slow = server.base_url.replace("127.0.0.1", "localhost")
    gate = None
    for number in range(10):
        _, gate = server.add_gated(f"/slow-{number}.jpg", picture(number))
        server.gates[f"/slow-{number}.jpg"] = server.gates["/slow-0.jpg"]
    gate = server.gates["/slow-0.jpg"]
    quick = [server.add(f"/quick-{number}.jpg", picture(number)) for number in range(10)]
    found: list[list[Reject | None]] = []
    waits = Thread(target=lambda: found.append(decoder.pixels([f"{slow}/slow-{n}.jpg" for n in range(10)])[1]))
    waits.start()
    for _ in range(PER_HOST):
        gate.wait_for_request()
    _, of_quick = decoder.pixels(quick)
    before = list(found)
    gate.open()
    waits.join()

    assert [None] * 10 == of_quick
    assert [] == before
    assert [[None] * 10] == found


def test_whoever_shares_out_places_may_be_away_for_a_moment(settings: ServiceSettings, server: ImageServer) -> None:
    """Nobody waits for ever for it."""
    hosts = OneMachine(PER_HOST)
    hosts.away = 3
    # One of its own: where the host has been asked about already, what was granted holds on.
    with closing(Decoder(settings, SIZE_PX, processes=1, hosts=hosts)) as decoder:
        _, rejects = decoder.pixels([server.add("/a.jpg", picture(0))])
        healthy = decoder.healthy

    assert ([None], 0) == (rejects, hosts.away)
    assert healthy


def test_a_redirect_is_not_a_way_in(decoder: Decoder, server: ImageServer) -> None:
    """To an address that is not public it is refused as the address itself is."""
    server.redirects["/away.jpg"] = "http://10.0.0.1/a.jpg"
    server.redirects["/here.jpg"] = server.add("/there.jpg", picture(0))

    _, [away, here] = decoder.pixels([server.base_url + "/away.jpg", server.base_url + "/here.jpg"])

    assert away is not None
    assert "URL_NOT_ALLOWED" == away.code
    assert here is None


def test_processes_that_cannot_be_started_hold_nobody(
    settings: ServiceSettings, server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for pixels comes to see that there will be none, by URL, in files or in bytes."""
    monkeypatch.setattr("core.images.starts._MOST_DELAY_S", 0.1)
    url, gate = server.add_gated("/0.jpg", picture(0))
    found: list[list[Reject | None]] = []
    decoder = Decoder(settings, SIZE_PX, processes=1, hosts=OneMachine(PER_HOST), program=SCRIPTED)
    with closing(decoder):
        waits = Thread(target=lambda: found.append(decoder.pixels([url, None])[1]))
        waits.start()
        gate.wait_for_request()
        monkeypatch.setenv("TZ", NO_START)
        [pid] = decoder._images.pids
        os.kill(pid, signal.SIGKILL)
        waits.join(SOON_S)
        gate.open()
        [[waited, nothing]] = found
        _, later = decoder.pixels([url, picture(1), picture(2)])

    assert [("NOT_READY", True)] * 4 == [(one.code, one.retryable) for one in (waited, *later) if one]
    assert nothing
    assert not decoder.healthy
