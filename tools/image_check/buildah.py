"""buildah with a store of its own: what is built here leaves nothing behind and touches nobody's images."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class BuildFailed(Exception):
    """A build ended with an error; the message is its output."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an image: `diff_id` is the digest of its content, `created_by` the instruction it comes from."""

    diff_id: str
    size_bytes: int
    created_by: str


@dataclass(frozen=True, slots=True)
class Image:
    """A built image: `config` is the part that an engine starts it by."""

    name: str
    config: dict[str, Any]
    layers: list[Layer]
    build_s: float

    @property
    def environment(self) -> dict[str, str]:
        return dict(entry.split("=", 1) for entry in self.config["Env"])


@dataclass(frozen=True, slots=True)
class Buildah:
    """`storage` is an empty directory. `volumes` are seen by every RUN and are not part of the image."""

    storage: Path
    driver: str
    volumes: Sequence[str] = ()

    def build(
        self, name: str, dockerfile: str, context: Path, arguments: Mapping[str, str], *, target: str | None = None
    ) -> Image:
        """Build `dockerfile` of `context`, reusing what earlier builds left. Raises `BuildFailed`."""
        started_s = time.monotonic()
        command = ["bud", "--layers", "--isolation", "chroot", "--format", "docker"]
        command += [f"--volume={volume}" for volume in self.volumes]
        command += [f"--build-arg={key}={value}" for key, value in arguments.items()]
        command += ["--target", target] if target else []
        built = self._run(*command, "--file", str(context / dockerfile), "--tag", name, str(context))
        if built.returncode != 0:
            raise BuildFailed(built.stdout + built.stderr)
        return self._image(name, time.monotonic() - started_s)

    def import_directory(self, name: str, directory: Path) -> None:
        """Make an image of one layer from a root file system."""
        container = self._output("from", "scratch")
        self._output("add", "--quiet", container, str(directory), "/")
        self._output("commit", "--quiet", "--rm", "--format", "docker", container, name)

    @contextmanager
    def mounted(self, image: Image) -> Iterator[Path]:
        """The image's root file system, until the block ends."""
        container = self._output("from", "--pull-never", image.name)
        try:
            yield Path(self._output("mount", container))
        finally:
            self._output("rm", container)

    def remove_everything(self) -> None:
        """Remove every container, image and file of this store."""
        self._run("rm", "--all")
        self._run("rmi", "--all", "--force")
        # The graph driver's own bind mount outlives its last image.
        subprocess.run(["umount", "--lazy", self.storage / "root" / self.driver], check=False, capture_output=True)  # noqa: S603, S607
        shutil.rmtree(self.storage)

    def _image(self, name: str, build_s: float) -> Image:
        inspected = json.loads(self._output("inspect", "--type", "image", name))
        docker = inspected["Docker"]
        sizes = self._sizes_bytes(inspected["FromImageID"])
        steps = [step["created_by"] for step in docker["history"] if not step.get("empty_layer")]
        layers = [Layer(*row) for row in zip(docker["rootfs"]["diff_ids"], sizes, steps, strict=True)]
        return Image(name, docker["config"], layers, build_s)

    def _sizes_bytes(self, image_id: str) -> list[int]:
        """Sizes from the lowest layer to the top one, as the store counted them."""
        images = json.loads((self.storage / "root" / f"{self.driver}-images" / "images.json").read_bytes())
        layers_file = self.storage / "root" / f"{self.driver}-layers" / "layers.json"
        layers = {layer["id"]: layer for layer in json.loads(layers_file.read_bytes())}
        above = next(image["layer"] for image in images if image["id"] == image_id)
        sizes: list[int] = []
        while above:
            sizes.insert(0, layers[above].get("diff-size", 0))
            above = layers[above].get("parent")
        return sizes

    def _output(self, *arguments: str) -> str:
        finished = self._run(*arguments)
        if finished.returncode != 0:
            raise RuntimeError(f"buildah {arguments[0]}: {finished.stderr}")
        return finished.stdout.strip()

    def _run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = ["buildah", "--root", str(self.storage / "root"), "--runroot", str(self.storage / "run")]
        command += ["--storage-driver", self.driver, *arguments]
        # What it leaves in its temporary folder goes with the store.
        environ = {**os.environ, "TMPDIR": str(self.storage)}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environ)  # noqa: S603
