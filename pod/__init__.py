"""The HTTP adapter: Flask over the operation table, served by gunicorn with gevent at the door."""

# Where the Flask app keeps its Service: the gunicorn worker drains and closes it there.
SERVICE_EXTENSION = "clip_service"

# And its Figures: started with a worker, handed over for the last time at its end.
FIGURES_EXTENSION = "clip_figures"
