"""Real servers and processes for tests: everything listens on port 0 of 127.0.0.1 and ends with the test."""
