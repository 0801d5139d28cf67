"""What the runtime owns it ends: nothing is left of it, however its start or its end went."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial

import psutil
import pytest

from core.batching.items import Group, Item, Modality
from core.clip.engine import Engine, Pixels, TokenIds, Vectors
from core.clip.loading import LoadedModel, load_model
from core.deadline import Deadline
from core.errors import NotFound, StartError
from core.images.decoding.rules import PIXEL_RULES_VERSION
from core.images.pool import ImageProcesses, Undecoded
from core.metrics import ITEMS_IN_FLIGHT, ITEMS_LIMIT, QUEUED_ITEMS, QUEUED_SECONDS
from core.runtime import Runtime, close_in_the_end, load_runtime
from core.settings import ServiceSettings, load_settings
from core.wire.openai import EmbeddingsRequest, check_model
from tests.logs import records_of
from tools.testbed.process import MODEL_CACHE, TINY_MODEL

SOON_S = 60.0
OWN = ("device", "image-process", "cache")


@pytest.fixture(scope="module")
def settings() -> ServiceSettings:
    return load_settings(
        {
            "ALLOW_INSECURE_AUTH": "1",
            "CLIP_MODEL": str(TINY_MODEL),
            "CLIP_CACHE_DIR": str(MODEL_CACHE),
            "CLIP_DTYPE": "float32",
            "CLIP_DEVICE": "cpu",
            "IMAGE_PROCESSES": "2",
        }
    )


@pytest.fixture(scope="module")
def model(settings: ServiceSettings) -> LoadedModel:
    return load_model(settings, pixel_rules=PIXEL_RULES_VERSION)


@dataclass
class Ours:
    """What a test has started, and no earlier one: a service may run in this very process for other files' tests."""

    others: frozenset[threading.Thread] = field(default_factory=lambda: frozenset(threading.enumerate()))
    others_processes: frozenset[int] = field(default_factory=lambda: frozenset(image_processes()))

    def threads(self) -> set[str]:
        """Those that a runtime starts; others belong to libraries."""
        names = {thread.name for thread in threading.enumerate() if thread not in self.others}
        return {name for name in names if name.startswith(OWN)}

    def processes(self) -> set[int]:
        return image_processes() - self.others_processes


def image_processes() -> set[int]:
    return {child.pid for child in psutil.Process().children() if "core.images.child" in _command(child)}


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.fixture(autouse=True)
def ours() -> Iterator[Ours]:
    """No test of this file leaves a thread or a process behind, whatever it did."""
    ours = Ours()
    yield ours
    until_s = time.monotonic() + SOON_S
    while ours.threads() and time.monotonic() < until_s:
        time.sleep(0.01)

    assert set() == ours.threads()
    assert set() == ours.processes()


def test_close_leaves_no_process_and_no_thread(settings: ServiceSettings, model: LoadedModel, ours: Ours) -> None:
    """When it returns they are gone already; a second time there is nothing left to do."""
    runtime = Runtime(settings, None, model)
    during = (len(ours.processes()), ours.threads(), runtime.healthy)
    runtime.close()
    left = (ours.processes(), ours.threads())
    runtime.close()

    assert (2, {"device-cpu", "image-process", "image-processes"}, True) == during
    assert (set(), set()) == left


def test_what_waits_for_a_decoder_is_queued(
    settings: ServiceSettings, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An autoscaler goes by the seconds: those of the decoders, and then those of the device for the same images."""
    with closing(Runtime(settings, None, model)) as runtime:
        image_s = runtime._scheduler.image_s
        monkeypatch.setattr(ImageProcesses, "undecoded", Undecoded(3, 0.6))
        queued = {one.metric: one.value for one in runtime.readings() if one.metric in (QUEUED_ITEMS, QUEUED_SECONDS)}

    assert image_s > 0.0
    assert {QUEUED_ITEMS: 3, QUEUED_SECONDS: pytest.approx(0.6 + 3 * image_s)} == queued


def test_items_are_in_flight_until_they_have_a_vector(settings: ServiceSettings, model: LoadedModel) -> None:
    """Beside how many may be: whoever reads OVERLOADED can see whether it is that."""
    group = Group(Deadline.after(SOON_S))
    items = [Item(Modality.TEXT, group, None) for _ in range(3)]
    with closing(Runtime(settings, None, model)) as runtime:
        with runtime._scheduler.entered(items):
            during = {one.metric: one.value for one in runtime.readings()}
        after = {one.metric: one.value for one in runtime.readings()}

    assert (3, settings.max_queued_items) == (during[ITEMS_IN_FLIGHT], during[ITEMS_LIMIT])
    assert 0 == after[ITEMS_IN_FLIGHT]


@pytest.mark.parametrize(("hub_id", "known_as"), [("owner/name", "owner/name"), (None, "tiny-shapes")])
def test_model_is_asked_for_by_its_hub_id_wherever_it_lies(
    settings: ServiceSettings, model: LoadedModel, hub_id: str | None, known_as: str
) -> None:
    """An image has it in a folder of its own."""
    named = replace(model, directory=replace(model.directory, hub_id=hub_id))
    with closing(Runtime(settings, None, named)) as runtime:
        identity = runtime.identity

    for name in (known_as, "tiny-shapes"):
        check_model(EmbeddingsRequest.model_construct(model=name), identity)
    with pytest.raises(NotFound):
        check_model(EmbeddingsRequest.model_construct(model=str(TINY_MODEL)), identity)


def test_cached_model_that_is_not_served_is_said(settings: ServiceSettings, caplog: pytest.LogCaptureFixture) -> None:
    """Who gives an endpoint a model would otherwise look for long why the one in the image answers."""
    named = settings.model_copy(update={"model_name": "owner/name"})

    load_runtime(named, None).close()

    [record] = [record for record in caplog.records if "MODEL_NAME" in record.message]
    assert logging.WARNING == record.levelno


def test_close_goes_on_in_reverse_order_when_a_step_fails(caplog: pytest.LogCaptureFixture) -> None:
    """Each step that fails is in the log, and the next one is tried all the same."""
    ended: list[str] = []

    def fail(name: str) -> None:
        ended.append(name)
        raise ZeroDivisionError(name)

    made = ExitStack()
    for name in ("first", "second", "third"):
        close_in_the_end(made, partial(fail, name))
    made.close()

    assert ["third", "second", "first"] == ended
    said = records_of(caplog, "core.runtime")
    assert 3 == len([record for record in said if record.exc_info and record.levelno == logging.ERROR])


class CannotEncode:
    """An engine of which every pass fails."""

    def __init__(self, engine: Engine) -> None:
        self.name, self.device, self.dtype = engine.name, engine.device, engine.dtype
        self.out_of_memory = engine.out_of_memory

    def prepare_thread(self) -> None: ...

    def encode_images(self, pixels: Pixels) -> Vectors:
        raise RuntimeError("no images today")

    def encode_texts(self, token_ids: TokenIds) -> Vectors:
        raise RuntimeError("no texts today")


class Hangs(CannotEncode):
    """An engine whose first pass does not end before the gate opens."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.gate = threading.Event()

    def encode_images(self, pixels: Pixels) -> Vectors:
        self.gate.wait()
        return super().encode_images(pixels)


def test_start_whose_first_pass_hangs_fails(
    settings: ServiceSettings, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing watches over a start: waiting for that pass to end would leave a pod that loads for good."""
    monkeypatch.setattr("core.runtime._CHECK_TIMEOUT_S", 0.5)
    engine = Hangs(model.engines[0])
    failed: list[Exception] = []

    def start() -> None:
        try:
            Runtime(settings, None, replace(model, engines=[engine]))
        except StartError as error:
            failed.append(error)

    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    thread.join(SOON_S)
    engine.gate.set()

    assert ["cannot embed"] == [word for error in failed for word in ("cannot embed",) if word in str(error)]


def test_start_that_fails_halfway_ends_what_it_has_made(settings: ServiceSettings, model: LoadedModel) -> None:
    """The model is found useless when image processes and devices run already."""
    with pytest.raises(StartError, match="cannot embed"):
        Runtime(settings, None, replace(model, engines=[CannotEncode(model.engines[0])]))


@pytest.mark.parametrize("places", [1, 2])
def test_start_needs_one_place(settings: ServiceSettings, model: LoadedModel, places: int) -> None:
    """Whatever MAX_QUEUED_ITEMS allows: the first pass of each tower takes turns where it must."""
    few = settings.model_copy(update={"max_queued_items": places})
    with closing(Runtime(few, None, model)) as runtime:
        runtime.check()
        healthy = runtime.healthy

    assert healthy


def test_shared_cache_ends_with_the_runtime(settings: ServiceSettings, model: LoadedModel, ours: Ours) -> None:
    """Its thread is there while the runtime is, and goes with it; also where the start fails, or no Redis is there."""
    shared = settings.model_copy(update={"cache_url": "redis://127.0.0.1:1"})
    runtime = Runtime(shared, None, model)
    during = ours.threads()
    runtime.close()
    after = ours.threads()
    with pytest.raises(StartError, match="cannot embed"):
        Runtime(shared, None, replace(model, engines=[CannotEncode(model.engines[0])]))

    assert {"device-cpu", "image-process", "image-processes", "cache-writer"} == during
    assert set() == after


def test_start_without_image_processes_ends_what_it_has_made(settings: ServiceSettings, model: LoadedModel) -> None:
    """The last step of all is that they have come up: no interpreter with so little memory does."""
    too_little = settings.model_copy(update={"max_decode_bytes": -(2**29)})
    with pytest.raises(StartError, match="image process"):
        Runtime(too_little, None, model)
