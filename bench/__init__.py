"""Measurements: always beside a baseline from the same run. Results go to bench/results/."""
