"""What stands in for the registry and the package index of the real build: a small Debian, and this machine's pip.

The base is Debian bookworm with its own Python 3.11, as the real base is Debian bookworm with python.org's.
"""

import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

_PACKAGES = "ca-certificates,python3,python3-venv,python3-pip"
_CERTIFICATES = Path("/etc/ssl/certs")
_SETTING = re.compile(r"^(?P<key>[\w:.-]+)='(?P<value>.*)'$", re.MULTILINE | re.DOTALL)


def make_base(cache: Path, directory: Path) -> None:
    """Unpack the stand-in base into `directory`; the first time it is made with debootstrap (a minute) and kept."""
    archive = cache / "stand-in-bookworm.tar"
    if archive.is_file():
        with tarfile.open(archive) as tar:
            tar.extractall(directory, filter="fully_trusted")  # noqa: S202 - our own archive, with devices and owners
        return
    cache.mkdir(parents=True, exist_ok=True)
    command = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(directory)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    for unneeded in ("var/cache/apt", "var/lib/apt/lists"):
        shutil.rmtree(directory / unneeded)
    unfinished = archive.with_suffix(".unfinished")
    with tarfile.open(unfinished, "w") as tar:
        tar.add(directory, arcname=".")
    unfinished.rename(archive)


# Files that a build does not see, and need not: it has its own constraints.
_OF_THIS_MACHINE = {"constraint", "build-constraint", "requirement"}


def pip_settings() -> dict[str, str]:
    """What pip is configured with on this machine, by files and environment, without the section's name."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = [_SETTING.match(line) for line in listed.splitlines()]
    settings = {match["key"]: match["value"].replace("\\n", "\n") for match in found if match}
    # The environment is listed under a section of its own, and wins.
    ordered = sorted(settings, key=lambda key: key.startswith(":env:"))
    return {key.rpartition(".")[2]: settings[key] for key in ordered}


def pip_volumes(settings: Mapping[str, str], configuration: Path) -> list[str]:
    """Write the settings to a file and return what a build must mount to install as this machine would."""
    kept = {key: value for key, value in settings.items() if key not in _OF_THIS_MACHINE}
    lines = [f"{key} = {value}".replace("\n", "\n    ") for key, value in kept.items()]
    configuration.write_text("\n".join(["[global]", *lines]) + "\n")
    folders = [_CERTIFICATES, *local_folders(settings)]
    mounted = [f"{folder}:{folder}:ro" for folder in folders if folder.is_dir()]
    return [*mounted, f"{configuration}:/etc/pip.conf:ro"]


def local_folders(settings: Mapping[str, str]) -> list[Path]:
    """The folders on this machine that pip looks into: of wheels, and of indexes with their files beside them."""
    wheels = [Path(path) for path in settings.get("find-links", "").split()]
    urls = [url for key in ("index-url", "extra-index-url") for url in settings.get(key, "").split()]
    indexes = [Path(urlsplit(url).path).parent for url in urls if url.startswith("file:")]
    return [*wheels, *indexes]
