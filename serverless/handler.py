"""The entry point of a serverless worker: `python -m serverless.handler`. The one place that imports the SDK."""

import logging.config
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from types import FrameType

from core.build import build_service
from core.errors import StartError
from core.old_names import warn_of_old_names
from core.process.garbage import kept_from_collector
from core.process.logs import logging_config
from core.service import Service, Status
from core.start_tracing import start_tracing
from core.watchdog import FAULT_EXIT_STATUS, Watchdog, WatchdogLimits
from serverless.adapter import JobHandler
from serverless.auth import build_authenticator
from serverless.settings import HandlerSettings, load_handler_settings
from shared_tracing import warn_if_in_vain

# Never DEBUG, which is the SDK's default: there it logs every output, embeddings and all.
_SDK_LOG_LEVEL = {"DEBUG": "INFO", "INFO": "INFO", "WARNING": "WARN", "ERROR": "ERROR"}


# After a fault no more jobs are taken, and this process ends when those that are here are answered. Should it not:
_PARTING_S = 20.0

# A worker that has drained sends its last spans within this, or not at all.
_LAST_SPANS_S = 3.0


def main() -> None:
    """Load and warm the model, then take jobs until SIGTERM. A model that cannot be loaded ends the process."""
    signal.signal(signal.SIGTERM, _end_at_once)
    try:
        settings = load_handler_settings(os.environ)
        logging.config.dictConfig(logging_config(settings.log_level))
        warn_of_old_names(os.environ)
        warn_if_in_vain(os.environ)
        # Before the SDK's loop: a worker that takes jobs can answer them.
        with kept_from_collector(), _sdk_imported_meanwhile(settings):
            service = build_service(settings, build_authenticator(settings))
            service.load()
    except StartError as error:
        sys.exit(f"cannot start: {error}")
    serve(settings, service)


def _end_at_once(number: int, _frame: FrameType | None) -> None:
    """Until the SDK's loop runs, when nothing has been taken yet. To a container's first process, which this is, a
    signal without a handler never comes: it would go on to take jobs, and be killed with them.
    """
    os._exit(128 + number)


@contextmanager
def _sdk_imported_meanwhile(settings: HandlerSettings) -> Iterator[None]:
    """Whoever has sent the first job waits for a start. The SDK takes more than a second of it, and the model, of which
    much is done by a disk and a device, goes beside that.
    """
    # It reads it when it is imported.
    os.environ["RUNPOD_LOG_LEVEL"] = _SDK_LOG_LEVEL[settings.log_level]
    with ThreadPoolExecutor(1, "sdk") as thread:
        imported = thread.submit(import_module, "runpod.serverless")
        yield
        imported.result()


def serve(settings: HandlerSettings, service: Service) -> None:
    """Take jobs until SIGTERM, or until the device is lost: then this process ends with `FAULT_EXIT_STATUS`."""
    from runpod import serverless  # type: ignore[import-untyped]

    from serverless import draining

    draining.install(is_lost=lambda: service.status is Status.UNHEALTHY)
    limits = WatchdogLimits(settings.watchdog_forward_s, settings.watchdog_hub_s, parting_s=_PARTING_S)
    Watchdog(service, limits, end=lambda: os._exit(FAULT_EXIT_STATUS)).start()
    tracing = start_tracing(os.environ, service="clip-embedding-serverless")
    handler = JobHandler(service, concurrency=settings.serverless_concurrency, tracing=tracing)
    serverless.register_fitness_check(service.check)
    serverless.start(
        {
            "handler": handler.handle,
            # Constant: with 1 the SDK sleeps a second between two jobs, and changing it waits for an idle worker.
            "concurrency_modifier": lambda _current: settings.serverless_concurrency,
        }
    )
    handler.close()
    if tracing is not None:
        tracing.close(_LAST_SPANS_S)
    if service.status is Status.UNHEALTHY:
        # At once: nobody knows what a lost device does to a process that tidies up.
        os._exit(FAULT_EXIT_STATUS)
    service.close()


if __name__ == "__main__":
    main()
