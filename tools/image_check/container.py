"""Starts an image as an engine would: its own user, environment and command, as process 1, on a read-only root.

Made of util-linux alone, in new mount and process namespaces. Not shown this way: cgroup limits, seccomp profiles,
port mapping (the network is this machine's), and that an engine reads HEALTHCHECK.
"""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tools.image_check.buildah import Image

READY_TIMEOUT_S = 180.0

_START = """
set -e
root="$1"; user="$2"; shift 2
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir -m 1777 "$root/dev/shm"
for device in null zero full random urandom; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mount -o remount,bind,ro "$root"
exec setpriv --no-new-privs chroot --userspec="$user" --groups= "$root" "$@"
"""


@dataclass(slots=True)
class Container:
    """A running container. `log` reads what it has written so far."""

    process: "subprocess.Popen[bytes]"
    output: IO[bytes]

    def log(self) -> str:
        return Path(self.output.name).read_text()

    @property
    def pid(self) -> int:
        """Process 1 of the container, as this machine numbers it."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    def status(self) -> dict[str, str]:
        """The fields of /proc/PID/status of process 1."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def root_is_read_only(self) -> bool:
        mounts = [line.split() for line in Path(f"/proc/{self.pid}/mountinfo").read_text().splitlines()]
        return any(mount[4] == "/" and "ro" in mount[5].split(",") for mount in mounts)

    def terminate(self, timeout_s: float) -> tuple[int, float]:
        """Send SIGTERM to process 1; return exit status and seconds. Raises `TimeoutExpired`."""
        started_s = time.monotonic()
        os.kill(self.pid, signal.SIGTERM)
        return self.process.wait(timeout_s), time.monotonic() - started_s


@contextmanager
def started(
    image: Image, root: Path, settings: Mapping[str, str], command: Sequence[str] | None = None
) -> Iterator[Container]:
    """Run `command`, or the image's own, until the block ends; nothing of it is left running."""
    variables = [f"{name}={value}" for name, value in (image.environment | dict(settings)).items()]
    inside = ["env", "-i", f"--chdir={image.config['WorkingDir']}", *variables, *(command or image.config["Cmd"])]
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    outside = [*namespaces, "sh", "-c", _START, "start", str(root), image.config["User"], *inside]
    with tempfile.NamedTemporaryFile(prefix="container-", suffix=".log") as output:
        process = subprocess.Popen(outside, stdout=output, stderr=output, start_new_session=True)  # noqa: S603
        try:
            yield Container(process, output)
        finally:
            # The namespace ends with its process 1, and that with this one.
            process.kill()
            process.wait()


def finished(
    image: Image, root: Path, settings: Mapping[str, str], command: Sequence[str] | None = None
) -> tuple[int, str]:
    """Run to the end; return exit status and output."""
    with started(image, root, settings, command) as container:
        return container.process.wait(READY_TIMEOUT_S), container.log()
