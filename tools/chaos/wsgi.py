"""The real pod around the scripted engine: `gunicorn -c pod/gunicorn_conf.py tools.chaos.wsgi:app`.

The engine is chosen by which application gunicorn is told to load, so no setting of a production pod leads here.
"""

import os

from core.service import Service
from core.settings import load_settings
from pod.app import create_app
from tools.chaos.service import scripted_service

_settings = load_settings(os.environ)
_service: Service = scripted_service(_settings, os.environ)
app = create_app(_settings, _service)
