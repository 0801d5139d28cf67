"""docs/migration.md: the names in it are those of the code, and its commands do what it says."""

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from clip_embedding_client import old_names as client_old_names
from clip_embedding_client.settings import ClientSettings

from core import errors
from core.old_names import OLD_NAMES
from models.shapes import KINDS, draw, single
from serverless.settings import HandlerSettings
from tools.docs_check.blocks import NOT_RUN, blocks_of
from tools.testbed.image_server import ImageServer
from tools.testbed.pictures import encoded
from tools.testbed.process import ROOT, SECRET, PodProcess

TEXT = (ROOT / "docs" / "migration.md").read_text("utf-8")
SERVICE = {name.upper() for name in HandlerSettings.model_fields}
CLIENT = {each.name.upper() for each in fields(ClientSettings)}
CODES = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "code")}
OLD_CLIENT = set(client_old_names.OLD_NAMES)
# Read by `make smoke`.
OTHERS = {"SMOKE_IMAGE_URL"}

NAME = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+_?")


def table(title: str) -> list[list[str]]:
    """The rows of the table whose first column has this title, each as its cells."""
    after = TEXT.split(f"| {title} | new |\n", 1)[1].split("\n\n", 1)[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in after.splitlines()[1:]]


def commands() -> tuple[str, str]:
    """The two commands that embed a sample again and compare, as a shell reads them."""
    [block] = [block for block in blocks_of(TEXT, "migration.md") if block.detail == NOT_RUN["data"]]
    text = block.text.replace(".venv/bin/python", sys.executable)
    text = text.replace(".venv/bin/clip-embed", f"{sys.executable} -m clip_embedding_client")
    first, second = text.split("\n", 1)
    return first, second


def test_names_of_the_service_are_those_that_it_warns_of() -> None:
    """A reader finds each name that the warning names, with the same new one."""
    told = {old: NAME.findall(new)[:1] for cell, new in table("service, old") for old in NAME.findall(cell)}

    assert {old: [new] if new else [] for old, new in OLD_NAMES.items()} == told


def test_names_of_the_client_are_all_there_and_read_by_nobody() -> None:
    """An old name is no setting any more."""
    told = {name for cell, _ in table("client, old") for name in NAME.findall(cell)}

    assert told == OLD_CLIENT
    assert set() == told & CLIENT


def test_every_other_name_is_a_setting_or_a_code() -> None:
    """A reader who sets what the document names sets something."""
    assert set() == set(NAME.findall(TEXT)) - SERVICE - CLIENT - CODES - OTHERS - OLD_CLIENT - set(OLD_NAMES)


def test_links_lead_somewhere() -> None:
    """Each names a file beside the document."""
    linked = re.findall(r"\]\(([^)]+)\)", TEXT)

    assert linked
    assert [] == [name for name in linked if not (ROOT / "docs" / name).exists()]


def test_commands_find_the_vectors_that_have_changed(pod: PodProcess, images: ImageServer, tmp_path: Path) -> None:
    """The sample is embedded again, and what differs from the old vectors comes first."""
    urls = [images.add(f"/old/{n}.png", encoded(draw(single(*kind), 300), "PNG")) for n, kind in enumerate(KINDS[:4])]
    (tmp_path / "urls.txt").write_text("\n".join(urls))
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "client" / "src"),
        "CLIP_INFERENCE_BACKEND": "runpod_pod",
        "CLIP_POD_BASE_URL": pod.base_url,
        "EMBEDDING_HMAC_SECRET": SECRET,
    }
    first, second = commands()
    subprocess.run(["/bin/bash", "-ec", first], cwd=tmp_path, env=environ, check=True)
    old = np.load(tmp_path / "new.npy") * 3
    old[2] = -old[2]
    np.save(tmp_path / "old.npy", old)
    compared = subprocess.run(
        ["/bin/bash", "-ec", second], cwd=tmp_path, env=environ, check=True, capture_output=True, text=True
    )

    cosines = [float(number) for number in compared.stdout.strip("[] \n").split()]
    assert [-1.0, 1.0, 1.0, 1.0] == pytest.approx(cosines, abs=1e-4)
