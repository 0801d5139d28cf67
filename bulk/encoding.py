"""Pixels and texts to vectors by a model of one's own, as the service's devices run it. Knows nothing of Ray."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from bulk.outcomes import Reject
from core.batching.device import Device
from core.batching.items import Encoded, Group, Item, Modality
from core.clip.engine import Engine
from core.clip.loading import LoadedModel, load_model
from core.deadline import Deadline
from core.errors import InternalError, ServiceError
from core.images.decoding.rules import PIXEL_RULES_VERSION
from core.images.job import Pixels
from core.settings import ServiceSettings
from shared_auth.contract import MAX_TEXT_CHARACTERS

Vectors = npt.NDArray[np.float32]

_NEVER_S = 1e9


class Encoder:
    """One model, for one thread: whatever is on its devices works at once. Raises `EngineBroken` when one is lost."""

    def __init__(self, settings: ServiceSettings, model: LoadedModel | None = None) -> None:
        """Loads what `settings` name, unless it is given. Raises `StartError`."""
        model = model or load_model(settings, pixel_rules=PIXEL_RULES_VERSION)
        self.name = settings.clip_model
        self.fingerprint = model.fingerprint
        self.dim = model.directory.dim
        self.size_px = model.directory.size_px
        self._tokenizer = model.tokenizer
        self._lanes = [_Lane(_device(model, engine)) for engine in model.engines]

    def encode_images(self, pixels: Pixels, rejects: Sequence[Reject | None]) -> tuple[Vectors, list[Reject | None]]:
        """Return float32 (n, dim) of L2 norm 1 and what `rejects` said, with what the model failed on."""
        group = Group(Deadline.after(_NEVER_S))
        items = [
            Item(Modality.IMAGE, group, image) if reject is None else None
            for image, reject in zip(pixels, rejects, strict=True)
        ]
        return self._encode(Modality.IMAGE, items, rejects)

    def encode_texts(self, texts: Sequence[str | None]) -> tuple[Vectors, list[Reject | None]]:
        """The same of texts; one that is too long for the model is cut, as the service cuts it."""
        group = Group(Deadline.after(_NEVER_S))
        rejects = [_refused_text(text) for text in texts]
        items = [
            self._text_item(group, text) if reject is None and text is not None else None
            for text, reject in zip(texts, rejects, strict=True)
        ]
        return self._encode(Modality.TEXT, items, rejects)

    def _text_item(self, group: Group, text: str) -> Item:
        ids, _ = self._tokenizer.encode(text)
        return Item(Modality.TEXT, group, ids, self._tokenizer.width(len(ids)), len(ids))

    def _encode(
        self, modality: Modality, items: Sequence[Item | None], rejects: Sequence[Reject | None]
    ) -> tuple[Vectors, list[Reject | None]]:
        # Texts of one width together: a pass is as wide as its widest.
        waiting = _Waiting(sorted((item for item in items if item is not None), key=lambda item: item.width))
        for done in [lane.begin(modality, waiting) for lane in self._lanes]:
            done.result()
        vectors = np.zeros((len(items), self.dim), np.float32)
        found = list(rejects)
        for index, item in enumerate(items):
            if item is not None:
                found[index] = _take(item.outcome, vectors[index])
        return vectors, found


class _Waiting:
    """Items that have not been taken yet. Thread-safe."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self._lock = threading.Lock()

    def take(self, most: int) -> Sequence[Item]:
        """The next ones; none when there are no more."""
        with self._lock:
            taken, self._items = self._items[:most], self._items[most:]
        return taken


class _Lane:
    """A device and the one thread that may call it."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._thread = ThreadPoolExecutor(1, "device", initializer=device.prepare_thread)

    def begin(self, modality: Modality, waiting: _Waiting) -> "Future[None]":
        """Encode what waits, until nothing does. The result raises `EngineBroken`."""
        return self._thread.submit(self._encode, modality, waiting)

    def _encode(self, modality: Modality, waiting: _Waiting) -> None:
        while items := waiting.take(self._device.limit(modality)):
            self._device.run(modality, items)


def _device(model: LoadedModel, engine: Engine) -> Device:
    return Device(
        engine,
        {Modality.IMAGE: np.stack, Modality.TEXT: model.tokenizer.pad},
        dim=model.directory.dim,
        max_batch=model.max_batch,
        prepare_thread=engine.prepare_thread,
        out_of_memory=engine.out_of_memory,
    )


def _take(outcome: Encoded | ServiceError | None, row: npt.NDArray[Any]) -> Reject | None:
    if not isinstance(outcome, Encoded):
        error = outcome or InternalError()
        return Reject(error.code, error.message, error.retryable)
    row[:] = outcome.vector / outcome.norm
    return None


def _refused_text(text: str | None) -> Reject | None:
    """By the limits of a request."""
    if text is not None and 0 < len(text) <= MAX_TEXT_CHARACTERS:
        return None
    message = "there is nothing in this row" if not text else f"a text has at most {MAX_TEXT_CHARACTERS} characters"
    return Reject("VALIDATION_ERROR", message, retryable=False)
