"""Who does not wait any more: what is on its way ends, nobody goes on working for it, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, closing, contextmanager, suppress
from inspect import GEN_CLOSED, getgeneratorstate
from typing import Any

import anyio
import pytest
from clip_embedding_client import AsyncClipClient, ClientClosed, ClientSettings, ClipClient, Embedding, ImageItem
from clip_embedding_client.async_driver import AsyncDriver
from clip_embedding_client.clock import Clock
from clip_embedding_client.effects import Effect, Exchange, Flow, HttpAnswer, InProcess, Pause
from clip_embedding_client.threads import ThreadDriver
from httpcore._async.http11 import AsyncHTTP11Connection

from tests.threads import threads_end
from tools.testbed.control_plane import API_KEY, ENDPOINT_ID, ControlPlane, control_plane
from tools.testbed.image_server import Gate, ImageServer
from tools.testbed.process import LEAVING, LEAVING_SECRET, ROOT, SECRET, PodProcess

PATIENCE_S = 60.0
BATCH = 4

Call = Callable[[AsyncClipClient, list[ImageItem]], Awaitable[object]]


def pod_settings(environ: Mapping[str, str]) -> ClientSettings:
    # No attempt may end by itself before the test does.
    given = {"CLIP_INFERENCE_BACKEND": "runpod_pod", "CLIP_POD_TIMEOUT_S": "600", "CLIP_TOTAL_TIMEOUT_S": "600"}
    return ClientSettings.from_environ({**environ, **given, "CLIP_BATCH_SIZE": str(BATCH)})


@pytest.fixture
def held(images: ImageServer, drawings: list[bytes]) -> Iterator[tuple[str, Gate]]:
    """The URL of an image that does not come before the test is over."""
    url, gate = images.add_gated(f"/twins/held-{uuid.uuid4().hex}.png", drawings[0])
    yield url, gate
    gate.open()


def those_who_leave(environ: Mapping[str, str]) -> ClientSettings:
    """By the log they are told from all others, whose requests may be given up, and logged, at any time."""
    return pod_settings({**environ, "EMBEDDING_HMAC_SECRET": LEAVING_SECRET})


def requests_of_those_who_left(pod: PodProcess) -> int:
    return sum(line.get("client_gone") is True and line["client"] == LEAVING for line in pod.log_lines())


def wait_until(holds: Callable[[], bool]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.02)


async def nothing_is_left(client: AsyncClipClient) -> bool:
    """No task, and no connection that is in use or waited for: a loop that is busy may have some turns to take."""
    until_s = time.monotonic() + PATIENCE_S
    while _is_left(client) and time.monotonic() < until_s:
        await asyncio.sleep(0.02)
    return not _is_left(client)


def _is_left(client: AsyncClipClient) -> bool:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    pool: Any = client._driver._http._transport._pool  # type: ignore[attr-defined]
    return bool(tasks or pool._requests or not all(each.is_idle() for each in pool.connections))


async def one(client: AsyncClipClient, items: list[ImageItem]) -> object:
    return await client.embed_image(items[0].image)


async def all_of_them(client: AsyncClipClient, items: list[ImageItem]) -> object:
    return await client.embed_images(items)


async def each_of_them(client: AsyncClipClient, items: list[ImageItem]) -> object:
    return [result async for result in client.iter_images(items)]


CALLS = [
    pytest.param(one, 1, id="embed_image"),
    pytest.param(all_of_them, 2, id="embed_images"),
    pytest.param(each_of_them, 2, id="iter_images"),
]


@pytest.mark.parametrize(("call", "requests"), CALLS)
def test_cancelled_call_to_a_pod(
    environ: Mapping[str, str], pod: PodProcess, held: tuple[str, Gate], call: Call, requests: int
) -> None:
    """The pod sees that its client has gone, no task and no connection is left, and the client goes on."""
    url, gate = held
    before = requests_of_those_who_left(pod)

    async def cancelled() -> bool:
        async with AsyncClipClient(those_who_leave(environ)) as client:
            # Two batches, both of which wait for the image.
            items = [ImageItem(f"{url}?{number}") for number in range(BATCH + 1)]
            task = asyncio.ensure_future(call(client, items))
            # Each image: those of one batch alone would be as many as there are batches.
            for _ in items if requests > 1 else items[:1]:
                await asyncio.to_thread(gate.wait_for_request)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            left = await nothing_is_left(client)
            await asyncio.to_thread(wait_until, lambda: requests_of_those_who_left(pod) >= before + requests)
            assert isinstance(await client.embed_text("a red circle"), Embedding)
            return left

    assert asyncio.run(cancelled())
    assert before + requests == requests_of_those_who_left(pod)


@pytest.mark.usefixtures("pod")
def test_cancelled_while_its_answer_is_closed(environ: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What closes it goes on to its end: a connection that was half closed would be in use for good."""

    async def cancelled() -> bool:
        async with AsyncClipClient(pod_settings(environ)) as client:
            task = asyncio.ensure_future(client.embed_text("a red circle"))

            async def close(connection: AsyncHTTP11Connection) -> None:
                task.cancel()
                # In which the cancellation comes, if it comes that far.
                await asyncio.sleep(0)
                await closed(connection)

            closed = AsyncHTTP11Connection._response_closed
            monkeypatch.setattr(AsyncHTTP11Connection, "_response_closed", close)
            with pytest.raises(asyncio.CancelledError):
                await task
            monkeypatch.undo()
            return await nothing_is_left(client)

    assert asyncio.run(cancelled())


class _CancelledAsItIsAnswered(AsyncDriver):
    """Every exchange is answered; whoever waits for the first is cancelled in the very turn of its answer."""

    def __init__(self, cancel: Callable[[], object]) -> None:
        super().__init__(connect_timeout_s=1, clock=Clock())
        self._cancel = cancel
        self.asked: list[str] = []

    async def _answer(self, exchange: Exchange, *_others: object) -> HttpAnswer:
        if not self.asked:
            self._cancel()
        self.asked.append(exchange.url)
        return HttpAnswer(200, b"{}", None)


def named() -> Flow[None]:
    """The first answer names what is to be undone."""
    yield Exchange("POST", "name", PATIENCE_S)
    try:
        yield Exchange("GET", "ask after it", PATIENCE_S)
    except BaseException:
        yield Exchange("POST", "undo", PATIENCE_S)
        raise


def ending() -> Flow[None]:
    yield Exchange("POST", "name", PATIENCE_S)


def failing() -> Flow[None]:
    yield Exchange("POST", "name", PATIENCE_S)
    raise ValueError


ANSWERED = [
    pytest.param(named, ["name", "undo"], id="with something to undo"),
    pytest.param(ending, ["name"], id="at its end"),
    pytest.param(failing, ["name"], id="with an error"),
]


@pytest.mark.parametrize(("flow", "asked"), ANSWERED)
def test_cancelled_as_it_is_answered(flow: Callable[[], Flow[None]], asked: list[str]) -> None:
    """The flow learns the answer, which may name a job, and then of the cancellation, which is not lost either."""

    async def cancelled() -> list[str]:
        driver = _CancelledAsItIsAnswered(lambda: task.cancel())
        task = asyncio.ensure_future(driver.run(flow()))
        with pytest.raises(asyncio.CancelledError):
            await task
        await driver.close()
        return driver.asked

    assert asked == asyncio.run(cancelled())


@pytest.mark.parametrize(("flow", "asked"), ANSWERED)
def test_scope_that_is_cancelled_as_it_is_answered(flow: Callable[[], Flow[None]], asked: list[str]) -> None:
    """The same for a scope of anyio, and for `asyncio.timeout`, which counts the cancellations of its task."""

    async def left() -> list[str]:
        driver = _CancelledAsItIsAnswered(lambda: scope.cancel())
        with anyio.CancelScope() as scope:
            await driver.run(flow())
        assert scope.cancelled_caught
        await driver.close()
        return driver.asked

    async def limited() -> list[str]:
        task = asyncio.current_task()
        assert task is not None
        driver = _CancelledAsItIsAnswered(lambda: limit._on_timeout())  # type: ignore[attr-defined]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(PATIENCE_S) as limit:
                await driver.run(flow())
        assert 0 == task.cancelling()
        await driver.close()
        return driver.asked

    assert asked == asyncio.run(left())
    assert asked == asyncio.run(limited())


def test_leaving_a_loop_early(
    environ: Mapping[str, str], pod: PodProcess, held: tuple[str, Gate], urls: list[str]
) -> None:
    """Under `aclosing`, what is on its way is cancelled when the loop is left."""
    url, gate = held
    before = requests_of_those_who_left(pod)

    async def left_early() -> bool:
        async with AsyncClipClient(those_who_leave(environ)) as client:
            async with aclosing(client.iter_images([*urls[:BATCH], url])) as results:
                async for result in results:
                    assert isinstance(result, Embedding)
                    await asyncio.to_thread(gate.wait_for_request)
                    break
            left = await nothing_is_left(client)
            await asyncio.to_thread(wait_until, lambda: requests_of_those_who_left(pod) > before)
            return left

    assert asyncio.run(left_early())
    assert before + 1 == requests_of_those_who_left(pod)


@pytest.mark.usefixtures("pod")
def test_source_that_is_not_at_its_end(environ: Mapping[str, str], urls: list[str]) -> None:
    """Who leaves a loop while there is more to read leaves no generator that the event loop would have to close."""
    unfinished: list[object] = []

    async def left_early() -> bool:
        sys.set_asyncgen_hooks(finalizer=unfinished.append)
        async with AsyncClipClient(pod_settings(environ)) as client:
            async with aclosing(client.iter_images(urls * 100)) as results:
                async for result in results:
                    assert isinstance(result, Embedding)
                    break
            gc.collect()
            return await nothing_is_left(client)

    assert asyncio.run(left_early())
    assert [] == unfinished


def fail(_done: int, _total: int | None) -> None:
    raise RuntimeError("the caller's own")


def test_progress_that_raises(environ: Mapping[str, str], urls: list[str]) -> None:
    """An error of the caller's own ends the call with it: nothing is on its way any more when it arrives."""
    given = urls * 10
    with (
        ClipClient(pod_settings(environ)) as client,
        threads_end("clip-batch"),
        pytest.raises(RuntimeError, match="own") as caught,
    ):
        client.embed_images(given, on_progress=fail)

    assert caught.value.__traceback__


def test_progress_that_raises_in_a_task(environ: Mapping[str, str], urls: list[str], held: tuple[str, Gate]) -> None:
    """The same with asyncio, while an image does not come."""

    async def failing() -> bool:
        async with AsyncClipClient(pod_settings(environ)) as client:
            with pytest.raises(RuntimeError, match="own") as caught:
                await client.embed_images([*urls[:BATCH], held[0]], on_progress=fail)
            assert caught.value.__traceback__
            return await nothing_is_left(client)

    assert asyncio.run(failing())


def test_what_runs_in_process_is_abandoned() -> None:
    """A cancelled task does not leave its thread at work: the call is told to end early."""
    ended, begun = threading.Event(), threading.Event()

    def call() -> None:
        begun.set()
        assert ended.wait(PATIENCE_S)

    def flow() -> Flow[None]:
        yield InProcess(call, ended.set)

    async def cancelled() -> None:
        driver = AsyncDriver(connect_timeout_s=1, clock=Clock())
        task = asyncio.ensure_future(driver.run(flow()))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await driver.close()

    asyncio.run(cancelled())
    assert ended.is_set()


@contextmanager
def endless_queue() -> Iterator[ControlPlane]:
    """A RunPod without workers, whose `runsync` names the job at once: every job is polled."""
    with control_plane() as plane:
        plane.runsync_wait_s = 0.0
        yield plane


def serverless_settings(plane: ControlPlane) -> dict[str, str]:
    return {
        "CLIP_INFERENCE_BACKEND": "runpod_serverless",
        "RUNPOD_BASE_URL": plane.base_url,
        "RUNPOD_API_KEY": API_KEY,
        "RUNPOD_CLIP_ENDPOINT_ID": ENDPOINT_ID,
        "EMBEDDING_HMAC_SECRET": SECRET,
        "CLIP_BATCH_SIZE": str(BATCH),
    }


class Polling:
    """A clock that tells when a client pauses between two polls, and lets an asynchronous one wait there for ever."""

    def __init__(self) -> None:
        self.pauses = threading.Semaphore(0)

    async def asleep(self, _seconds: float) -> None:
        self.pauses.release()
        await asyncio.Event().wait()

    def wait_for_pauses(self, count: int) -> None:
        for _ in range(count):
            assert self.pauses.acquire(timeout=PATIENCE_S)


@pytest.mark.parametrize(("call", "jobs"), CALLS)
def test_cancelled_while_a_job_is_polled(call: Call, jobs: int) -> None:
    """A job that nobody waits for any more is cancelled where it runs: it costs money."""
    polling = Polling()

    async def cancelled(plane: ControlPlane) -> bool:
        settings = ClientSettings.from_environ(serverless_settings(plane))
        async with AsyncClipClient(settings, clock=Clock(asleep=polling.asleep)) as client:
            items = [ImageItem(f"http://a/{number}.png") for number in range(BATCH + 1)]
            task = asyncio.ensure_future(call(client, items))
            await asyncio.to_thread(polling.wait_for_pauses, jobs)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await nothing_is_left(client)

    with endless_queue() as plane:
        assert asyncio.run(cancelled(plane))
        assert sorted(plane.jobs) == sorted(plane.take_stops())
    assert jobs == len(plane.jobs)


def test_time_limit_of_the_callers_own() -> None:
    """`asyncio.timeout` around a call is a cancellation too: its job is cancelled, and it is a `TimeoutError`."""

    async def limited(plane: ControlPlane) -> bool:
        async def time_is_up(_seconds: float) -> None:
            limit.reschedule(asyncio.get_running_loop().time())
            await asyncio.Event().wait()

        settings = ClientSettings.from_environ(serverless_settings(plane))
        async with AsyncClipClient(settings, clock=Clock(asleep=time_is_up)) as client:
            with pytest.raises(TimeoutError):
                # It begins to count when the job is polled: until then a slow machine may take as long as it likes.
                async with asyncio.timeout(None) as limit:
                    await client.embed_text("x")
            return await nothing_is_left(client)

    with endless_queue() as plane:
        assert asyncio.run(limited(plane))
        assert list(plane.jobs) == plane.take_stops()
    assert 1 == len(plane.jobs)


@pytest.mark.parametrize(("call", "jobs"), CALLS)
def test_scope_of_anyio_that_is_cancelled(call: Call, jobs: int) -> None:
    """Unlike asyncio's, it cancels whatever is awaited in it from then on; jobs are cancelled all the same."""

    async def left(plane: ControlPlane) -> bool:
        pauses = 0

        async def give_up(_seconds: float) -> None:
            nonlocal pauses
            pauses += 1
            if pauses == jobs:
                scope.cancel()
            await asyncio.Event().wait()

        settings = ClientSettings.from_environ(serverless_settings(plane))
        async with AsyncClipClient(settings, clock=Clock(asleep=give_up)) as client:
            with anyio.CancelScope() as scope:
                await call(client, [ImageItem(f"http://a/{number}.png") for number in range(BATCH + 1)])
            assert scope.cancelled_caught
            return await nothing_is_left(client)

    with endless_queue() as plane:
        assert asyncio.run(left(plane))
        assert sorted(plane.jobs) == sorted(plane.take_stops())
    assert jobs == len(plane.jobs)


def test_ctrl_c_while_a_job_is_polled() -> None:
    """Ctrl-C in a thread's client cancels its job, and is still a Ctrl-C."""

    def interrupt(_seconds: float, _left: threading.Event | None) -> None:
        raise KeyboardInterrupt

    with endless_queue() as plane:
        settings = ClientSettings.from_environ(serverless_settings(plane))
        with ClipClient(settings, clock=Clock(sleep=interrupt)) as client, pytest.raises(KeyboardInterrupt):
            client.embed_text("x")

        assert list(plane.jobs) == plane.take_stops()
    assert 1 == len(plane.jobs)


class _InterruptedBetween(ThreadDriver):
    """Ctrl-C comes once, when an effect is done and its flow does not know yet."""

    interrupted = False

    def _done(self, effect: Effect, left: threading.Event | None) -> tuple[object, BaseException | None]:
        done = super()._done(effect, left)
        if not self.interrupted:
            self.interrupted = True
            raise KeyboardInterrupt
        return done


def test_ctrl_c_between_two_effects() -> None:
    """The flow is told all the same, and what it undoes is done."""
    told: list[object] = []

    def flow() -> Flow[None]:
        try:
            yield Pause(0.0)
        except KeyboardInterrupt as error:
            told.append(error)
            told.append((yield InProcess(lambda: "undone", lambda: None)))
            raise

    driver = _InterruptedBetween(connect_timeout_s=PATIENCE_S, clock=Clock(sleep=lambda _seconds, _left: None))
    with pytest.raises(KeyboardInterrupt) as caught:
        driver.run(flow())

    assert [caught.value, "undone"] == told


_SCRIPT = """
import asyncio, signal, sys
from clip_embedding_client import AsyncClipClient, ClipClient

# As at a terminal: what a shell starts in the background ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)

urls = [f"http://a/{number}.png" for number in range(5)]

async def main():
    async with AsyncClipClient() as client:
        await client.embed_images(urls)

try:
    if sys.argv[1] == "asyncio":
        asyncio.run(main())
    with ClipClient() as client:
        client.embed_image(urls[0]) if sys.argv[1] == "one" else client.embed_images(urls)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize(("kind", "jobs"), [("one", 1), ("many", 2), ("asyncio", 2)])
def test_ctrl_c_at_a_terminal(kind: str, jobs: int) -> None:
    """A process that is interrupted cancels all jobs that it polls, in every thread, and ends."""
    with endless_queue() as plane:
        environment = {"PYTHONPATH": str(ROOT / "client" / "src"), **serverless_settings(plane)}
        with subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, kind], env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                wait_until(lambda: len(plane.jobs) == jobs and plane.asked >= 2 * jobs)
                process.send_signal(signal.SIGINT)
                said, _ = process.communicate(timeout=PATIENCE_S)
            finally:
                with suppress(ProcessLookupError):
                    process.kill()

        assert "interrupted\n" == said
        assert sorted(plane.jobs) == sorted(plane.take_stops())


def test_leaving_a_loop_of_threads_early() -> None:
    """Jobs that threads poll are cancelled when their loop is left: at the next pause, not when their time is up."""
    pauses = threading.Semaphore(0)
    may_end = threading.Event()

    def pause(_seconds: float, _left: threading.Event | None) -> None:
        pauses.release()
        assert may_end.wait(PATIENCE_S)

    def images() -> Iterator[str]:
        yield from (f"http://a/{number}.png" for number in range(2 * BATCH))
        for _ in range(2):
            assert pauses.acquire(timeout=PATIENCE_S)
        may_end.set()
        raise KeyboardInterrupt

    with endless_queue() as plane:
        settings = ClientSettings.from_environ(serverless_settings(plane))
        with (
            ClipClient(settings, clock=Clock(sleep=pause)) as client,
            closing(client.iter_images(images())) as results,
            pytest.raises(KeyboardInterrupt),
        ):
            next(results)

        assert sorted(plane.jobs) == sorted(plane.take_stops())
    assert 2 == len(plane.jobs)


def run_left(flow: Flow[None], left: threading.Event) -> None:
    """Run what is left on its way, until it has noticed."""
    with suppress(BaseException):
        ThreadDriver(connect_timeout_s=PATIENCE_S, clock=Clock()).run(flow, left)
    assert GEN_CLOSED == getgeneratorstate(flow)


def test_pause_that_nobody_waits_for() -> None:
    """It ends when its loop is left, however long it was to be, and nothing is begun after it."""
    left, begun = threading.Event(), threading.Event()
    asked: list[str] = []

    def flow() -> Flow[None]:
        yield InProcess(begun.set, lambda: None)
        yield Pause(10 * PATIENCE_S)
        yield InProcess(lambda: asked.append("the fallback"), lambda: None)

    thread = threading.Thread(target=run_left, args=(flow(), left))
    thread.start()
    assert begun.wait(PATIENCE_S)
    left.set()
    thread.join(PATIENCE_S)

    assert not thread.is_alive()
    assert [] == asked


def test_nothing_is_begun_that_nobody_waits_for() -> None:
    """Left in the middle of an exchange, its failure does not lead to the other backend."""
    left = threading.Event()
    asked: list[str] = []

    def flow() -> Flow[None]:
        yield InProcess(left.set, lambda: None)
        yield InProcess(lambda: asked.append("the fallback"), lambda: None)

    run_left(flow(), left)
    assert [] == asked


def test_closed_client_says_so(environ: Mapping[str, str]) -> None:
    """To every call, and once for all items: none would do better, nothing is connected and nothing tried again."""
    client = ClipClient(pod_settings(environ))
    client.embed_text("a red circle")
    client.close()

    for call in (lambda: client.embed_text("a"), lambda: client.embed_texts(["a"]), client.health):
        with pytest.raises(ClientClosed):
            call()


def test_closed_client_for_asyncio_says_so(environ: Mapping[str, str], held: tuple[str, Gate]) -> None:
    """As the one for threads; and a call that is on its way when it is closed is not sent again."""
    url, gate = held

    async def run() -> None:
        client = AsyncClipClient(pod_settings(environ))
        await client.embed_text("a red circle")
        on_its_way = asyncio.create_task(client.embed_image(url, max_retries=3))
        await asyncio.to_thread(gate.wait_for_request)
        await client.close()
        for call in (client.embed_text("a"), client.embed_texts(["a"]), client.health(), on_its_way):
            with pytest.raises(ClientClosed):
                await call

    asyncio.run(run())
