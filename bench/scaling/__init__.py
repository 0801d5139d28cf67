"""A day of traffic against several ways to run the service, simulated: `python -m bench.scaling`."""
