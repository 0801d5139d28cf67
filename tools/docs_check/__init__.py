"""Runs the commands that the documents tell a reader to run: `make docs-check`."""
