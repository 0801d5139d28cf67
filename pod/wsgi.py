"""The entry point of a gunicorn worker: `gunicorn -c pod/gunicorn_conf.py pod.wsgi:app`."""

import os

from core.build import build_service
from core.settings import load_settings
from pod.app import create_app
from pod.start import load_in_background

_settings = load_settings(os.environ)
_service = build_service(_settings)
app = create_app(_settings, _service)
load_in_background(_service)
