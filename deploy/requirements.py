"""Prints what some extras of pyproject.toml need, one requirement a line: `python requirements.py core,cpu`.

An image installs dependencies before it sees any code, so it cannot ask pip to install the project itself.
Standard library only: it runs before anything is installed.
"""

import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path


def main(extras: str) -> None:
    """Read ./pyproject.toml and print the requirements of the extras, which are separated by commas."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    print("\n".join(sorted(set(requirements(project["name"], project["optional-dependencies"], extras.split(","))))))


def requirements(name: str, available: Mapping[str, list[str]], extras: list[str]) -> Iterator[str]:
    """Yield the requirements of the extras, following the project's references to extras of its own."""
    for extra in extras:
        if extra not in available:
            sys.exit(f"pyproject.toml has no extra {extra}")
        for requirement in available[extra]:
            if requirement.startswith(f"{name}["):
                yield from requirements(name, available, requirement[len(name) + 1 : -1].split(","))
            else:
                yield requirement


if __name__ == "__main__":
    main(sys.argv[1])
