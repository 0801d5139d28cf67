"""The wire contract: what requests and answers look like, and strict JSON. Knows no transport."""
