"""This repository's own code, as tests look at it."""

import ast
from pathlib import Path


def parsed(path: Path) -> ast.Module:
    """The syntax of a file.

    Python 3.11 counts the depth of what it parses for all threads together, and fails where two parse at once
    (github.com/python/cpython/issues/106905): the second try is another moment.
    """
    try:
        return ast.parse(path.read_text("utf-8"))
    except SystemError:
        return ast.parse(path.read_text("utf-8"))
