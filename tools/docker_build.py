"""`make docker-build`: builds both images with Docker, named and labelled by version and commit.

Its arguments are taken from the environment: docs/deploy.md lists them.
"""

import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_OF_BOTH = (
    "BASE_IMAGE",
    "TORCH",
    "TORCH_CPU_INDEX",
    "TORCH_CU126_INDEX",
    "MODEL",
    "MODEL_REVISION",
    "MODEL_FINGERPRINT",
)
_PASSED_ON = {"pod": (*_OF_BOTH, "EXTRAS"), "serverless": _OF_BOTH}


def commands(environ: Mapping[str, str], version: str, commit: str) -> list[list[str]]:
    """Return the two commands; PREFIXclip-pod:VERSION and PREFIXclip-serverless:VERSION are the images' names."""
    prefix = environ.get("IMAGE_PREFIX", "")
    return [
        [
            *("docker", "build", "--platform=linux/amd64"),
            *_arguments({name: environ[name] for name in names if environ.get(name)}, version, commit),
            *(f"--file=Dockerfile.{role}", f"--tag={prefix}clip-{role}:{version}", "."),
        ]
        for role, names in _PASSED_ON.items()
    ]


def _arguments(given: Mapping[str, str], version: str, commit: str) -> list[str]:
    return [f"--build-arg={name}={value}" for name, value in {**given, "VERSION": version, "COMMIT": commit}.items()]


def main() -> None:
    """Build one after the other: the second finds most of its layers made."""
    version = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["version"]
    for command in commands(os.environ, version, _commit()):
        print(" ".join(command), flush=True)
        subprocess.run(command, cwd=_ROOT, check=True)  # noqa: S603


def _commit() -> str:
    """The commit that is checked out, with a mark when files differ from it."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    return subprocess.run(command, cwd=_ROOT, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603


if __name__ == "__main__":
    try:
        main()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"cannot build: {error}")
