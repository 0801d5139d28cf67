"""Vectors from a pod or an endpoint, by the client of this service and with its own settings. Knows nothing of Ray."""

import io
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bulk.errors import BulkError
from bulk.inputs import Kind
from bulk.outcomes import Reject
from bulk.places import Place
from bulk.plan import Model
from bulk.sources import Source, read_file

if TYPE_CHECKING:
    from clip_embedding_client import ClientSettings
    from clip_embedding_client.values import Outcome

Vectors = npt.NDArray[np.float32]

_EXPECTED = "CLIP_EXPECTED_FINGERPRINT"
_READERS = 16

# A service that limits its callers says for how long there is no room, but not through everything in front of it.
_PAUSE_S = 10.0
# Whoever has to wait for longer than this does not want a process that waits.
_LONGEST_PAUSE_S = 3600.0
# Pauses for a row that is asked for alone; others may have taken the room each time.
_PAUSES_ALONE = 5


class Asker:
    """One client, for one thread. What is away for a whole piece ends the run: its rows are not at fault."""

    def __init__(
        self,
        environ: Mapping[str, str],
        max_file_bytes: int,
        *,
        fingerprint: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Raises `BulkError` for settings that are of no use."""
        from clip_embedding_client import ClipClient, ClipClientError, FingerprintMismatch, JobCancelled, SetupError
        from clip_embedding_client.errors import DeadlineExceeded, InferenceFailed, RateLimited

        self._error, self._limited = ClipClientError, RateLimited
        # What is between the client and the service: no row is rejected for it.
        self._of_no_row = (SetupError, FingerprintMismatch, JobCancelled)
        # What may be one row's, and every row's of a service whose model does nothing any more.
        self._of_a_row_or_all = (InferenceFailed, DeadlineExceeded)
        expected = {} if fingerprint is None else {_EXPECTED: fingerprint}
        try:
            self._settings = _settings({**environ, **expected})
            self._client = ClipClient(self._settings)
        except ClipClientError as error:
            raise BulkError(error.message) from error
        self._max_file_bytes = max_file_bytes
        self._readers = ThreadPoolExecutor(_READERS, "read-image")
        self._sleep = sleep

    def model(self) -> Model:
        """What the service embeds with. Raises `BulkError` when it does not say."""
        try:
            health = self._client.health()
        except self._error as error:
            raise BulkError(f"the service does not answer: {error}") from error
        if health.model_name is None or health.fingerprint is None or health.dim is None:
            raise BulkError(f"the service is {health.status}: it does not say yet with which model it embeds")
        return Model(health.model_name, health.fingerprint, health.dim, size_px=0)

    def ask(self, sources: Sequence[Source], *, dim: int, kind: Kind) -> tuple[Vectors, list[Reject | None]]:
        """Return float32 (n, dim) of L2 norm 1, and None or why there is none. Raises `BulkError`."""
        loaded = list(self._readers.map(self._loaded, sources))
        sent = [one for one in loaded if not isinstance(one, Reject)]
        embed: Any = self._client.embed_images if kind.is_image else self._client.embed_texts
        answers = iter(self._patiently(embed, sent, kind))
        outcomes = [one if isinstance(one, Reject) else next(answers) for one in loaded]
        self._require_service(outcomes, embed, kind)
        vectors = np.zeros((len(sources), dim), np.float32)
        rejects = [self._taken(outcome, row) for outcome, row in zip(outcomes, vectors, strict=True)]
        return vectors, rejects

    def _patiently(self, embed: Any, sent: Sequence[str | bytes], kind: Kind) -> "Sequence[Outcome]":  # noqa: ANN401
        """Rows that a limit had no room for are asked for again when it has: one request after the other, and each half
        as large where none of one was let in. Raises `BulkError` where nothing is let in any more.
        """
        outcomes = list(self._answers(embed, sent))
        waiting = [row for row, outcome in enumerate(outcomes) if isinstance(outcome, self._limited)]
        pause_s = self._pause_s(outcomes)
        at_once = self._settings.clip_batch_size if kind.is_image else self._settings.clip_text_batch_size
        pauses_alone = 0
        while waiting:
            if 0.0 < pause_s <= _LONGEST_PAUSE_S:
                self._sleep(pause_s)
            asked = waiting[:at_once]
            answers = self._answers(embed, [sent[row] for row in asked])
            for row, outcome in zip(asked, answers, strict=True):
                outcomes[row] = outcome
            still = [row for row in asked if isinstance(outcomes[row], self._limited)]
            waiting = still + waiting[at_once:]
            pause_s = self._pause_s(answers)
            if len(still) < len(asked):
                pauses_alone = 0
            elif len(asked) > 1:
                at_once = len(asked) // 2
            elif pause_s <= _LONGEST_PAUSE_S and pauses_alone < _PAUSES_ALONE:
                pauses_alone += 1
            else:
                self._require_room(outcomes[asked[0]], embed, kind)
                # It is larger than the limit: its own fault, as the others may fit.
                del waiting[0]
                pause_s, pauses_alone = 0.0, 0
        return outcomes

    def _pause_s(self, outcomes: "Sequence[Outcome]") -> float:
        """Until there is room for those that there was none for."""
        limited = [one for one in outcomes if isinstance(one, self._limited)]
        return max((_PAUSE_S if one.retry_after_s is None else one.retry_after_s for one in limited), default=0.0)

    def _require_room(self, refused: "Outcome", embed: Any, kind: Kind) -> None:  # noqa: ANN401
        """Raises `BulkError` unless it is that row's fault: others are let in, and get a vector."""
        if isinstance(self._something_easy(embed, kind), self._error):
            raise BulkError(f"the service lets nothing in: {refused}; go on with --resume when there is room")

    def _something_easy(self, embed: Any, kind: Kind) -> "Outcome":  # noqa: ANN401
        [easy] = self._answers(embed, [_picture() if kind.is_image else f"a word {secrets.token_hex(4)}"])
        return easy

    def _answers(self, embed: Any, sent: Sequence[str | bytes]) -> "Sequence[Outcome]":  # noqa: ANN401
        """Raises `BulkError` for what is of no row."""
        try:
            outcomes: Sequence[Outcome] = embed(sent)
        except self._error as error:
            raise BulkError(str(error)) from error
        for outcome in outcomes:
            if isinstance(outcome, self._of_no_row):
                raise BulkError(str(outcome))
        return outcomes

    def _loaded(self, source: Source) -> str | bytes | Reject:
        if source is None:
            return Reject("VALIDATION_ERROR", "there is nothing in this row", retryable=False)
        if not isinstance(source, Place):
            return source
        return read_file(source, self._max_file_bytes)

    def _require_service(self, outcomes: "Sequence[Outcome | Reject]", embed: Any, kind: Kind) -> None:  # noqa: ANN401
        """Of the rows that were sent."""
        sent = [one for one in outcomes if not isinstance(one, Reject)]
        errors = [one for one in sent if isinstance(one, self._error)]
        if not errors or len(errors) < len(sent) or not all(error.unavailable for error in errors):
            return
        if any(isinstance(error, self._limited) for error in errors):
            # It is left because something easy was embedded.
            return
        are_of_rows_or_all = all(isinstance(error, self._of_a_row_or_all) for error in errors)
        # A retry has pieces of nothing but such rows: without this it would end at them each time.
        if are_of_rows_or_all and not isinstance(self._something_easy(embed, kind), self._error):
            return
        raise BulkError(f"the service is away: {errors[0]}; go on with --resume when it is back")

    def _taken(self, outcome: "Outcome | Reject", row: npt.NDArray[np.float32]) -> Reject | None:
        if isinstance(outcome, Reject):
            return outcome
        if isinstance(outcome, self._error):
            return Reject(outcome.code, outcome.message, outcome.retryable)
        row[:] = outcome.vector
        return None


def _picture() -> bytes:
    """One that any model takes, and that no cache has."""
    from PIL import Image

    file = io.BytesIO()
    Image.frombytes("RGB", (32, 32), secrets.token_bytes(3 * 32**2)).save(file, "PNG")
    return file.getvalue()


def require_settings(environ: Mapping[str, str]) -> None:
    """Raises `BulkError` for settings that are of no use."""
    from clip_embedding_client import ClipClientError

    try:
        _settings(environ)
    except ClipClientError as error:
        raise BulkError(error.message) from error


def _settings(environ: Mapping[str, str]) -> "ClientSettings":
    from clip_embedding_client import ClientSettings

    return ClientSettings.from_environ(environ)
