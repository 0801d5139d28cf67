"""Builds, starts, asks, changes a line, builds again; prints what was seen and the sizes by layer."""

# ruff: noqa: S101 - a check is an assertion; this never runs with -O

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path

from core.clip.manifest import read_manifest
from tools.image_check import checks, stand_in
from tools.image_check.buildah import Buildah, BuildFailed, Image

ROOT = Path(__file__).resolve().parent.parent.parent
_CACHE = ROOT / ".cache" / "image-check"
_BASE = "localhost/stand-in:bookworm"
_MODEL = "models/tiny-shapes"
_COMMIT = "0123456789ab"
_NEEDED = {"buildah": "buildah", "debootstrap": "debootstrap", "unshare": "util-linux", "setpriv": "util-linux"}
_NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", ".cache", "build", "__pycache__", "*.egg-info", ".env", ".*_cache"
)


@dataclass(slots=True)
class Report:
    """Prints each check as it ends, and remembers whether one failed."""

    failed: list[str] = field(default_factory=list)

    def check(self, name: str, run: Callable[[], str]) -> None:
        try:
            seen = run()
        except (AssertionError, subprocess.TimeoutExpired) as error:
            self.failed.append(name)
            print(f"FAILED  {name}: {error}", flush=True)
        else:
            print(f"ok      {name}: {seen}", flush=True)


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where it happens: the engine, a copy of the project, and the arguments of every build."""

    buildah: Buildah
    context: Path
    arguments: Mapping[str, str]

    def build(self, role: str, **arguments: str) -> Image:
        return self.buildah.build(
            f"localhost/clip-{role}:check", f"Dockerfile.{role}", self.context, {**self.arguments, **arguments}
        )


def main() -> int:
    """Returns 0, 1 if a check failed, 2 if this machine cannot run them."""
    parser = argparse.ArgumentParser(prog="make image-check", description="Build both images and try them.")
    parser.add_argument("--storage-driver", default="overlay", help="overlay, or vfs where overlay cannot be mounted")
    parser.add_argument("--base-image", help="a real base image instead of the stand-in")
    options = parser.parse_args()
    lacking = _lacking()
    if lacking is not None:
        print(f"image-check cannot run here: {lacking}", file=sys.stderr)
        return 2
    report = Report()
    with tempfile.TemporaryDirectory(prefix="image-check-", dir="/var/tmp") as folder:
        workshop = _prepare(Path(folder), options.storage_driver, options.base_image)
        try:
            _check_everything(workshop, report)
        finally:
            workshop.buildah.remove_everything()
    print(f"{len(report.failed)} checks failed" if report.failed else "all checks passed")
    return 1 if report.failed else 0


def _lacking() -> str | None:
    packages = sorted({package for command, package in _NEEDED.items() if shutil.which(command) is None})
    if packages:
        return f"apt-get install {' '.join(packages)}"
    return None if os.geteuid() == 0 else "it mounts file systems and needs root"


def _prepare(folder: Path, driver: str, base_image: str | None) -> Workshop:
    settings = stand_in.pip_settings()
    volumes = stand_in.pip_volumes(settings, folder / "pip.conf")
    buildah = Buildah(folder / "storage", driver, volumes)
    buildah.storage.mkdir()
    if base_image is None:
        (folder / "base").mkdir()
        stand_in.make_base(_CACHE, folder / "base")
        buildah.import_directory(_BASE, folder / "base")
    shutil.copytree(ROOT, folder / "context", ignore=_NOT_COPIED)
    arguments = {"BASE_IMAGE": base_image or _BASE, "TORCH": "cpu", "MODEL": _MODEL, "COMMIT": _COMMIT}
    return Workshop(buildah, folder / "context", arguments | {"VERSION": _version()})


def _version() -> str:
    version: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return version


def _check_everything(workshop: Workshop, report: Report) -> None:
    fingerprint = _bake_a_broken_model(workshop.context / "models" / "broken")
    images = {role: workshop.build(role) for role in ("pod", "serverless")}
    for role, image in images.items():
        print(_table(image), flush=True)
        with workshop.buildah.mounted(image) as root:
            built = checks.Built(image, root, _COMMIT, _version(), fingerprint)
            for check in checks.POD if role == "pod" else checks.SERVERLESS:
                report.check(f"{role}: {check.__name__.replace('_', ' ')}", partial(check, built))
    report.check("the images share layers", partial(_shared_layers, *images.values()))
    report.check("no image without its model", partial(_fails, workshop, "models/nothing", "CLIP_MODEL: "))
    report.check(
        "no image with a wrong checksum", partial(_fails, workshop, "models/broken", "CLIP_MODEL: the checksum")
    )
    with (workshop.context / "core" / "api.py").open("a") as source:
        source.write("# one line more\n")
    for role, image in images.items():
        report.check(f"{role}: one line of code changes one layer", partial(_rebuild, workshop, role, image))


def _bake_a_broken_model(target: Path) -> str:
    """Bake the small model, spoil one byte of its weights, and return the fingerprint it had."""
    command = [sys.executable, "-m", "core.clip.bake", _MODEL, str(target)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    manifest = read_manifest(target)
    assert manifest is not None
    weights = bytearray((target / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (target / "model.safetensors").write_bytes(weights)
    return manifest.fingerprint


def _fails(workshop: Workshop, model: str, reason: str) -> str:
    try:
        workshop.build("pod", MODEL=model)
    except BuildFailed as failure:
        output = str(failure)
    else:
        raise AssertionError(f"an image was built with MODEL={model}")
    said = [line for line in output.splitlines() if line.startswith(f"cannot bake: {reason}")]
    assert said, output
    return said[0]


def _rebuild(workshop: Workshop, role: str, before: Image) -> str:
    after = workshop.build(role)
    pairs = zip(after.layers, before.layers, strict=True)
    changed = [layer.created_by for layer, old in pairs if layer.diff_id != old.diff_id]
    assert len(changed) == 1, changed
    assert "/app" in changed[0], changed
    return f"{_short(changed[0])}; {after.build_s:.0f} s instead of {before.build_s:.0f} s"


def _shared_layers(one: Image, other: Image) -> str:
    pairs = zip(one.layers, other.layers, strict=False)
    same = [left for left, _ in takewhile(lambda pair: pair[0].diff_id == pair[1].diff_id, pairs)]
    shared, total = (sum(layer.size_bytes for layer in layers) / 1e6 for layers in (same, one.layers))
    assert shared > 0.8 * total, f"only {shared:.0f} of {total:.0f} MB"
    return f"the lowest {len(same)}, {shared:.0f} of {total:.0f} MB"


def _table(image: Image) -> str:
    rows = [f"{layer.size_bytes / 1e6:8.1f} MB  {_short(layer.created_by)}" for layer in image.layers]
    total = sum(layer.size_bytes for layer in image.layers) / 1e6
    return "\n".join([f"{image.name}, built in {image.build_s:.0f} s", *rows, f"{total:8.1f} MB  in all"])


def _short(created_by: str) -> str:
    """The instruction without shell, digest and build arguments."""
    shown = re.sub(r"^\|\d+ (?:\S+=\S* )*", "", created_by).removeprefix("/bin/sh -c ").removeprefix("#(nop) ")
    shown = re.sub(r"\b(?:file|dir):[0-9a-f]{64} ", "", shown)
    return " ".join(shown.split())[:90]


if __name__ == "__main__":
    sys.exit(main())
