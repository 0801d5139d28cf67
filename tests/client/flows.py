"""Runs a flow without a driver: what it asks of the world is answered from a list."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from clip_embedding_client.effects import Effect, Exchange, Flow, HttpAnswer, Pause

from tests.client.scripted import Body, FakeTime

Answer = HttpAnswer | BaseException | Callable[[Effect], Any]
"""What an effect comes to: its result, an error that is thrown into the flow, or a function that returns either."""


@dataclass(slots=True)
class Played:
    """What a flow asked for, and how it ended."""

    effects: list[Effect] = field(default_factory=list)
    result: Any = None
    error: BaseException | None = None

    @property
    def exchanges(self) -> list[Exchange]:
        return [effect for effect in self.effects if isinstance(effect, Exchange)]

    @property
    def pauses_s(self) -> list[float]:
        return [effect.seconds for effect in self.effects if isinstance(effect, Pause)]

    def said(self) -> list[str]:
        """The effects in short: `POST /path`, `pause`, or the name of the kind."""
        return [_said(effect) for effect in self.effects]


def _said(effect: Effect) -> str:
    if isinstance(effect, Exchange):
        return f"{effect.method} /{effect.url.split('/', 3)[3]}"
    return "pause" if isinstance(effect, Pause) else type(effect).__name__


def play(
    flow: Flow[Any], answers: Iterable[Answer] = (), *, then: Answer | None = None, time: FakeTime | None = None
) -> Played:
    """Run it to its end, with `then` for what is asked after the answers, all of which have to be asked for.

    With `time`, pauses pass there and need no answer.
    """
    left, played = list(answers), Played()
    given: Any = None
    while True:
        try:
            effect = flow.throw(given) if isinstance(given, BaseException) else flow.send(given)
        except StopIteration as done:
            played.result = done.value
            break
        # Also what is no Exception: a flow may be told that its task was cancelled.
        except BaseException as error:
            played.error = error
            break
        played.effects.append(effect)
        if time is not None and isinstance(effect, Pause):
            given = None
            time.sleep(effect.seconds)
            continue
        answer = left.pop(0) if left else then
        assert answer is not None, f"nothing was to be asked any more, but: {_said(effect)}"
        given = answer(effect) if callable(answer) else answer
    assert not left, f"never asked for: {left}"
    return played


def members(exchange: Exchange) -> Body:
    """The body of an exchange, which has to have one."""
    assert exchange.body is not None
    return dict(exchange.body)
