"""The commands of `python -m worker`, one module each: options in, an exit status out."""
