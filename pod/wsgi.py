"""The entry point of a gunicorn worker: `gunicorn -c pod/gunicorn_conf.py pod.wsgi:app`.

The configuration has the model loaded once the worker is up (`post_worker_init`); importing this does not.
"""

import os

from core.build import build_service
from core.process import cpu
from core.settings import load_settings
from core.start_tracing import start_tracing
from pod.app import create_app
from pod.workers import share_of_one

_settings = share_of_one(load_settings(os.environ), cpu.available_cores())
# In the worker, after the fork: it has a thread.
_tracing = start_tracing(os.environ, service="clip-embedding-pod")
app = create_app(_settings, build_service(_settings), _tracing)
