"""How many files and sockets a process may have open."""

import resource


def raise_limit_of_descriptors() -> None:
    """As far as it goes, for this process and those that it starts: most systems begin at 1,024."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
