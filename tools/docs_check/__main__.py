"""`make docs-check`: run every command of the documents, in order, in a fresh clone with a .venv of its own.

What is committed is checked. Ports are the documents' (8000, 8001, 8099) and must be free. Exit status 1 and the place
of the first block that fails.
"""

import argparse
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tools.docs_check.blocks import Doing, UnknownFence, blocks_of
from tools.docs_check.shell import BlockFailed, clean_environment, shell, terminal

_ROOT = Path(__file__).resolve().parent.parent.parent
# In the order of a newcomer: each page goes on in the clone that the one before has left, in new terminals.
DOCUMENTS = (
    "README.md",
    "docs/deploy.md",
    "docs/api.md",
    "docs/client.md",
    "examples/video_search/README.md",
    "docs/migration.md",
    "docs/errors.md",
    "docs/observability.md",
    "docs/int8.md",
    "docs/bulk.md",
)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.docs_check", description=__doc__)
    parser.add_argument("documents", nargs="*", default=DOCUMENTS, help="default: %(default)s")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="docs-check-") as folder:
        clone = Path(folder, "clone")
        subprocess.run(["git", "clone", "--quiet", str(_ROOT), str(clone)], check=True)  # noqa: S607
        try:
            for name in options.documents:
                _check(name, clone)
        except (BlockFailed, UnknownFence) as error:
            print(f"docs-check: {error}", file=sys.stderr)
            return 1
    print("docs-check: every command has run")
    return 0


def _check(name: str, clone: Path) -> None:
    """A document's blocks share a shell; what is started beside it ends with the document."""
    blocks = list(blocks_of((clone / name).read_text("utf-8"), name))
    environment = clean_environment()
    with ExitStack() as stack:
        reader = stack.enter_context(shell(clone, environment))
        for block in blocks:
            print(f"docs-check: {block.place} {block.language} {block.doing.value} {block.detail}", flush=True)
            if block.doing is Doing.RUN:
                reader.run(block)
            elif block.doing is Doing.START:
                stack.enter_context(terminal(block, clone, environment))


if __name__ == "__main__":
    sys.exit(main())
