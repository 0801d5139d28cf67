"""gunicorn's configuration. Runs in the master, so it loads neither torch nor the model."""

import errno
import os
import socket
import sys
from typing import Any

from core.build import require_usable
from core.errors import StartError
from core.old_names import warn_of_old_names
from core.process.logs import logging_config
from core.settings import ServiceSettings, load_settings
from core.watchdog import WatchdogLimits
from pod import FIGURES_EXTENSION, SERVICE_EXTENSION, metrics
from pod.restarts import RestartGuard
from pod.start import start

# After a fault: the hub closes its door within a second, and has this long for the answers that are under way.
_PARTING_S = 2.5


def _settings_or_exit() -> ServiceSettings:
    try:
        settings = load_settings(os.environ)
        require_usable(settings)
    except StartError as error:
        sys.exit(f"cannot start: {error}")
    return settings


_settings = _settings_or_exit()
_restarts = RestartGuard()

bind = f"[{_settings.host}]:{_settings.port}" if ":" in _settings.host else f"{_settings.host}:{_settings.port}"
workers = _settings.workers
worker_class = "pod.gevent_worker.UnpatchedGeventWorker"
# Well above the admission limit: overload is answered with OVERLOADED, not left waiting in the backlog.
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


def on_starting(_arbiter: Any) -> None:  # noqa: ANN401 - gunicorn is untyped
    """In the master, so once for all workers, and when its log is there."""
    warn_of_old_names(os.environ)
    _refuse_taken_port()
    metrics.make_folder()


def pre_fork(_arbiter: Any, worker: Any) -> None:  # noqa: ANN401 - gunicorn is untyped
    """In the master."""
    _restarts.born(worker.age)


def post_worker_init(worker: Any) -> None:  # noqa: ANN401 - gunicorn is untyped
    """Load the model and watch over it, in a worker that can answer already."""
    worker.wsgi.extensions[FIGURES_EXTENSION].start()
    limits = WatchdogLimits(_settings.watchdog_forward_s, _settings.watchdog_hub_s, parting_s=_PARTING_S)
    start(worker.wsgi.extensions[SERVICE_EXTENSION], limits, part=worker.part, delay_s=_restarts.delay_s())


def child_exit(arbiter: Any, worker: Any) -> None:  # noqa: ANN401 - gunicorn is untyped
    """In the master: tell a worker that died from one that was told to end, in a shutdown or a reload."""
    metrics.forget_worker(worker.pid)
    told = not arbiter.LISTENERS or len(arbiter.WORKERS) >= arbiter.num_workers
    (_restarts.retired if told else _restarts.died)(worker.age)


def worker_exit(_arbiter: Any, worker: Any) -> None:  # noqa: ANN401 - gunicorn is untyped
    """Stop the threads of a worker that has drained."""
    if worker.wsgi is not None:
        worker.wsgi.extensions[FIGURES_EXTENSION].close()
        worker.wsgi.extensions[SERVICE_EXTENSION].close()


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
