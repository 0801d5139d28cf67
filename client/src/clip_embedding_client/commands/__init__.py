"""The commands of `clip-embed`, one module each: `add_parser` says what it takes, `run` gives an exit status."""
