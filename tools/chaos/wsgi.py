"""The real pod around the scripted engine: `gunicorn -c pod/gunicorn_conf.py tools.chaos.wsgi:app`.

The engine is chosen by which application gunicorn is told to load, so no setting of a production pod leads here.
"""

import os

from core.process import cpu
from core.service import Service
from core.settings import load_settings
from pod.app import create_app
from pod.workers import share_of_one
from tools.chaos.service import scripted_service

_settings = share_of_one(load_settings(os.environ), cpu.available_cores())
_service: Service = scripted_service(_settings, os.environ)
app = create_app(_settings, _service)
