"""The command line against a real pod and a real handler: drawings in, the right drawing found."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from clip_embedding_client.__main__ import main

from models.shapes import KINDS, draw, single
from tests.end_to_end.test_backends import TOLERANCE
from tools.testbed.control_plane import API_KEY, ENDPOINT_ID, ControlPlane
from tools.testbed.process import SECRET, PodProcess, ServiceProcess


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of every kind of shape, one file each."""
    folder = tmp_path_factory.mktemp("drawings")
    for colour, form in KINDS:
        draw(single(colour, form), 200).save(folder / f"{colour}-{form}.png")
    return folder


@pytest.fixture
def environ(pod: PodProcess) -> dict[str, str]:
    return {
        "CLIP_INFERENCE_BACKEND": "runpod_pod",
        "CLIP_POD_BASE_URL": pod.base_url,
        "EMBEDDING_HMAC_SECRET": SECRET,
    }


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "vectors.npy"])
def test_folder_is_embedded_and_searched(
    name: str, drawings: Path, environ: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of all drawings the red circle is most like "a red circle", and each is most like itself."""
    out = tmp_path / name
    files = sorted(drawings.iterdir())
    assert 0 == main(["embed", "--image", str(drawings), "--out", str(out)], environ)
    assert 0 == main(["search", "--text", "a red circle", "--vectors", str(out), "--top", "1", "--json"], environ)
    assert 0 == main(["search", "--image", str(files[7]), "--vectors", str(out), "--top", "1", "--json"], environ)

    by_text, by_image = map(json.loads, capsys.readouterr().out.splitlines())
    assert "red-circle.png" == files[by_text["row"]].name
    assert (7, pytest.approx(1.0, abs=TOLERANCE)) == (by_image["row"], by_image["score"])
    if name != "vectors.npy":
        assert str(drawings / "red-circle.png") == by_text["input"]


def test_backends_fill_the_same_file(
    drawings: Path, environ: dict[str, str], plane: ControlPlane, handler: ServiceProcess, tmp_path: Path
) -> None:
    """What the pod has begun the endpoint goes on with: one model, one fingerprint, comparable vectors."""
    serverless = {
        "CLIP_INFERENCE_BACKEND": "runpod_serverless",
        "RUNPOD_BASE_URL": plane.base_url,
        "RUNPOD_API_KEY": API_KEY,
        "RUNPOD_CLIP_ENDPOINT_ID": ENDPOINT_ID,
        "EMBEDDING_HMAC_SECRET": SECRET,
    }
    out, whole = tmp_path / "rows.parquet", tmp_path / "whole.parquet"
    texts = ["a red circle", "a blue square"]
    statuses = [
        main(["embed", "--image", str(drawings), "--out", str(out)], environ),
        main(["embed", "--image", str(drawings), "--text", *texts, "--out", str(out), "--resume"], serverless),
        main(["embed", "--image", str(drawings), "--text", *texts, "--out", str(whole)], environ),
    ]

    rows, expected = pq.read_table(out).to_pylist(), pq.read_table(whole).to_pylist()
    assert [0, 0, 0] == statuses
    assert ["runpod_pod"] * len(KINDS) + ["runpod_serverless"] * 2 == [row["backend"] for row in rows]
    assert 1 == len({row["fingerprint"] for row in rows})
    assert [row["input"] for row in expected] == [row["input"] for row in rows]
    vectors, wanted = (np.asarray([row["embedding"] for row in each]) for each in (rows, expected))
    assert TOLERANCE > np.linalg.norm(vectors - wanted, axis=1).max()


def test_failures_of_the_real_service(
    drawings: Path, environ: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A broken image and an address that is not allowed fail by themselves; status 1."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not really a PNG")
    images = [str(broken), str(drawings / "red-circle.png"), "http://169.254.169.254/private"]
    status = main(["embed", "--image", *images], environ)

    printed = capsys.readouterr()
    codes = [json.loads(line).get("error", {}).get("code") for line in printed.out.splitlines()]
    assert 1 == status
    assert ["INVALID_IMAGE", None, "URL_NOT_ALLOWED"] == codes
    assert ["image 0: INVALID_IMAGE", "image 2: URL_NOT_ALLOWED"] == [
        ":".join(line.split(":")[:2]) for line in printed.err.splitlines()
    ]
    assert "private" not in printed.err


def test_probe_of_both(
    environ: dict[str, str], plane: ControlPlane, handler: ServiceProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pod and the handler are up and serve the same model."""
    fallback = {
        "CLIP_FALLBACK_BACKEND": "runpod_serverless",
        "RUNPOD_BASE_URL": plane.base_url,
        "RUNPOD_API_KEY": API_KEY,
        "RUNPOD_CLIP_ENDPOINT_ID": ENDPOINT_ID,
    }

    assert 0 == main(["probe"], environ | fallback)
    assert ["ok", "ok"] == [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]]
