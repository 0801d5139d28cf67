"""gunicorn's configuration. Runs in the master, so it loads neither torch nor the model."""

import errno
import os
import socket
import sys
from functools import partial
from typing import Any

from core.build import require_usable
from core.clip.gpu_memory import gpu_memory_bytes
from core.errors import StartError
from core.old_names import warn_of_old_names
from core.process import cpu
from core.process.descriptors import raise_limit_of_descriptors
from core.process.logs import logging_config
from core.settings import ServiceSettings, load_settings
from core.siblings import Siblings
from core.watchdog import WatchdogLimits
from pod import FIGURES_EXTENSION, SERVICE_EXTENSION, TRACING_EXTENSION, metrics
from pod.restarts import RestartGuard
from pod.start import start
from pod.workers import choose_workers
from shared_tracing import warn_if_in_vain

# After a fault: the hub closes its door within a second, and has this long for the answers that are under way.
_PARTING_S = 2.5

# A worker that has drained sends its last spans within this, or not at all.
_LAST_SPANS_S = 3.0


def _read() -> tuple[ServiceSettings, int]:
    """The settings, and how many workers they mean. Raises `StartError`."""
    settings = load_settings(os.environ)
    require_usable(settings)
    return settings, choose_workers(settings, cpu.available_cores(), gpu_memory_bytes)


def _settings_or_exit() -> tuple[ServiceSettings, int]:
    try:
        return _read()
    except StartError as error:
        sys.exit(f"cannot start: {error}")


_settings, workers = _settings_or_exit()
_restarts = RestartGuard(workers)

bind = f"[{_settings.host}]:{_settings.port}" if ":" in _settings.host else f"{_settings.host}:{_settings.port}"
# What `auto` has become: each worker reads its settings for itself, and has its share.
raw_env = [f"WORKERS={workers}"]
worker_class = "pod.gevent_worker.UnpatchedGeventWorker"
# Well above the admission limit, in each worker: overload is answered with OVERLOADED, not left waiting in the backlog.
worker_connections = _settings.max_concurrent_requests * 16
# The model loads in the worker, after the fork: CUDA does not survive one.
preload_app = False
# Off: it goes by the clock, and a platform that freezes an idle pod for a minute would find its worker killed. Who is
# stuck is the watchdog's to say (docs/decisions/0012-watchdog.md); graceful_timeout ends those that do not stop.
timeout = 0
graceful_timeout = _settings.drain_timeout_s
# gunicorn searches all of an unfinished head again with each piece of it. Proxies add a dozen fields to a client's ten.
limit_request_fields = 64
limit_request_field_size = 4096
# Below graceful_timeout: an idle connection must not hold up the drain. A head that trickles in has no more than this.
keepalive = max(1, min(15, _settings.drain_timeout_s // 2))
control_socket_disable = True
# Nobody's word on scheme and path is taken, so it need not be found out, for each request, who may give it.
forwarded_allow_ips, secure_scheme_headers, forwarder_headers = "*", dict[str, str](), ""
logconfig_dict = logging_config(_settings.log_level)
logger_class = "pod.gunicorn_logger.QuietLogger"


def on_starting(arbiter: Any) -> None:  # noqa: ANN401 - gunicorn is untyped
    """In the master, so once for all workers, and when its log is there."""
    warn_of_old_names(os.environ)
    warn_if_in_vain(os.environ)
    _refuse_taken_port()
    # Each connection takes one, and so does what is done beside them; the workers inherit it.
    raise_limit_of_descriptors()
    metrics.make_folder()
    # A reload runs this file again; the workers of before and those of after share the one that the master keeps.
    arbiter.siblings = Siblings()
    # gunicorn looks its handlers up by name.
    arbiter.handle_hup = partial(_reload_or_stay, arbiter)


def _reload_or_stay(arbiter: Any) -> None:  # noqa: ANN401 - gunicorn is untyped
    """SIGHUP, in the master. gunicorn ends with whatever ends this file, and its workers with it; settings that cannot
    start are no reason to stop what serves.
    """
    try:
        _read()
    except StartError as error:
        arbiter.log.critical("cannot reload, so all stays as it is: %s", error)
        return
    type(arbiter).handle_hup(arbiter)


def on_reload(arbiter: Any) -> None:  # noqa: ANN401 - gunicorn is untyped
    """In the master, before the new workers are started and the old ones told to end."""
    arbiter.siblings.replace_all()


def pre_fork(arbiter: Any, worker: Any) -> None:  # noqa: ANN401 - gunicorn is untyped
    """In the master."""
    worker.seat = arbiter.siblings.seat()
    _restarts.born(worker.age)


def post_worker_init(worker: Any) -> None:  # noqa: ANN401 - gunicorn is untyped
    """Load the model and watch over it, in a worker that can answer already."""
    service = worker.wsgi.extensions[SERVICE_EXTENSION]
    service.join(worker.seat)
    worker.wsgi.extensions[FIGURES_EXTENSION].start()
    limits = WatchdogLimits(_settings.watchdog_forward_s, _settings.watchdog_hub_s, parting_s=_PARTING_S)
    start(service, limits, part=worker.part, delay_s=_restarts.delay_s())


def child_exit(arbiter: Any, worker: Any) -> None:  # noqa: ANN401 - gunicorn is untyped
    """In the master: give back what a worker held, and tell one that died from one that was told to end, in a shutdown
    or a reload.
    """
    arbiter.siblings.free(worker.seat)
    metrics.forget_worker(worker.pid)
    if not arbiter.LISTENERS or len(arbiter.WORKERS) >= arbiter.num_workers:
        _restarts.retired(worker.age)
    else:
        _restarts.died(worker.age, others_serve=arbiter.siblings.serving > 0)


def worker_exit(_arbiter: Any, worker: Any) -> None:  # noqa: ANN401 - gunicorn is untyped
    """Stop the threads of a worker that has drained."""
    if worker.wsgi is None:
        return
    worker.wsgi.extensions[FIGURES_EXTENSION].close()
    worker.wsgi.extensions[SERVICE_EXTENSION].close()
    tracing = worker.wsgi.extensions[TRACING_EXTENSION]
    if tracing is not None:
        tracing.close(_LAST_SPANS_S)


def on_exit(_arbiter: Any) -> None:  # noqa: ANN401 - gunicorn is untyped
    """In the master, after its last worker."""
    metrics.remove_folder()


def _refuse_taken_port() -> None:
    """End in one line, before gunicorn tries the port five times. A handed-over socket is not tried."""
    if _settings.port == 0 or {"GUNICORN_FD", "LISTEN_FDS"} & os.environ.keys():
        return
    with socket.socket(_family(), socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_settings.host, _settings.port))
        except OSError as error:
            sys.exit(f"cannot start: {_why_not(error)}")


def _family() -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in _settings.host else socket.AF_INET


def _why_not(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"PORT: {bind} is in use: stop what listens there, or set PORT to a free one"
    return f"HOST and PORT: cannot listen on {bind}: {error.strerror}"
