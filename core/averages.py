"""What something usually takes, going by what it took lately."""


def moving_average(known: float, seen: float, *, newest: float) -> float:
    """Return the average after `seen`, which has the share `newest` of it (0 to 1). `known` is 0.0 before any."""
    return seen if known == 0.0 else known + newest * (seen - known)
