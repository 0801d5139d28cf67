"""Baking: the same vectors and fingerprint in one form, checksums that are compared, and failures of one line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from core.clip.artifact import open_model
from core.clip.bake import bake, compare_with_transformers
from core.clip.choice import Choice, load_engines
from core.clip.manifest import MANIFEST, Manifest, sha256_of
from core.errors import StartError
from core.settings import load_settings
from tools.testbed.process import ROOT, TINY_MODEL, handler_process

COMMIT = "5c" * 20


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model, baked."""
    target: Path = tmp_path_factory.mktemp("baked") / "model"
    bake(str(TINY_MODEL), target)
    return target


@pytest.fixture
def spoilt(baked: Path, tmp_path: Path) -> Path:
    """A copy of the baked model that a test may damage."""
    return Path(shutil.copytree(baked, tmp_path / "spoilt"))


def manifest_of(directory: Path) -> Manifest:
    return Manifest.model_validate_json((directory / MANIFEST).read_bytes())


def test_baked_directory_opens_with_the_names_and_fingerprint_of_its_manifest(baked: Path) -> None:
    """Answers name the model that was baked, not the directory it lies in."""
    directory = open_model(str(baked))

    assert ("tiny-shapes", "local", None) == (directory.model_name, directory.pretrained, directory.hub_id)
    assert manifest_of(baked).fingerprint == directory.baked_fingerprint


def test_pickled_weights_become_safetensors_with_the_same_fingerprint(baked: Path, tmp_path: Path) -> None:
    """The fingerprint is of the numbers, not of the file."""
    source = Path(shutil.copytree(TINY_MODEL, tmp_path / "pickled"))
    weights = load_file(source / "model.safetensors")
    # Shared memory, as in many a checkpoint; safetensors refuses it.
    torch.save({name: tensor.view_as(tensor) for name, tensor in weights.items()}, source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()

    manifest = bake(str(source), tmp_path / "target")

    assert manifest_of(baked).fingerprint == manifest.fingerprint
    assert {"config.json", "tokenizer.json", "preprocessor_config.json", "model.safetensors"} == set(manifest.files)


def test_baking_a_baked_directory_changes_nothing(baked: Path, tmp_path: Path) -> None:
    """Names, revision and checksums survive."""
    again = bake(str(baked), tmp_path / "again")

    assert manifest_of(baked).model_copy(update={"source": str(baked)}) == again


def test_model_of_the_hub_is_known_by_its_id_wherever_it_is_baked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images hold a baked one, and one that was baked may be baked again."""
    shutil.copytree(TINY_MODEL, tmp_path / "hub" / "models--owner--name" / "snapshots" / COMMIT)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))

    bake("owner/name", tmp_path / "baked", revision=COMMIT)
    again = bake(str(tmp_path / "baked"), tmp_path / "again")

    assert ("owner/name", COMMIT) == (again.source, again.revision)
    assert ["owner/name"] * 2 == [open_model(str(tmp_path / name)).hub_id for name in ("baked", "again")]


def as_version_1(directory: Path) -> None:
    """Turn a baked directory into one of the time before fingerprints had a version."""
    manifest = json.loads((directory / MANIFEST).read_text())
    (directory / MANIFEST).write_text(json.dumps(manifest | {"fingerprint": "7bf860063b1eaba3"}))


def test_directory_of_version_1_can_be_baked_again(baked: Path, spoilt: Path, tmp_path: Path) -> None:
    """That is what the error at its start says to do."""
    as_version_1(spoilt)

    assert manifest_of(baked).fingerprint == bake(str(spoilt), tmp_path / "again").fingerprint


def test_preprocessing_of_newer_versions_is_baked(tmp_path: Path) -> None:
    """Of both files those that the source has."""
    source = Path(shutil.copytree(TINY_MODEL, tmp_path / "source"))
    preprocessor = source / "preprocessor_config.json"
    (source / "processor_config.json").write_text(json.dumps({"image_processor": json.loads(preprocessor.read_text())}))
    preprocessor.unlink()

    manifest = bake(str(source), tmp_path / "target")

    assert {"config.json", "tokenizer.json", "processor_config.json", "model.safetensors"} == set(manifest.files)


def test_openvino_graphs_are_baked_compared_and_used(tmp_path: Path) -> None:
    """A start on a CPU exports nothing, and the manifest covers the graphs as it covers the rest."""
    target, cache = tmp_path / "target", tmp_path / "cache"
    manifest = bake(str(TINY_MODEL), target, openvino=True)
    graphs = [name for name in manifest.files if name.startswith(f"{manifest.fingerprint}-openvino-")]
    environ = {
        "ALLOW_INSECURE_AUTH": "1",
        "CLIP_DEVICE": "cpu",
        "CLIP_ENGINE": "openvino",
        "CLIP_CACHE_DIR": str(cache),
    }
    directory = open_model(str(target))
    settings = load_settings(environ)
    [engine] = load_engines(
        settings, directory, choice=Choice.of(settings), read=dict, identify=lambda: manifest.fingerprint
    )

    assert ["images.bin", "images.xml", "texts.bin", "texts.xml"] == [Path(name).name for name in graphs]
    assert (1, 512) == engine.encode_texts(np.full((1, 8), 632)).shape
    assert [".blob", ".blob"] == [path.suffix for path in cache.glob("*/*")]


def test_files_can_be_read_by_everybody(baked: Path) -> None:
    """The service runs as another user than the build."""
    assert {0o644} == {path.stat().st_mode & 0o777 for path in baked.iterdir()}


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "preprocessor_config.json"])
def test_changed_file_is_noticed_at_every_start(spoilt: Path, name: str) -> None:
    """A space at the end is enough."""
    with (spoilt / name).open("a") as file:
        file.write(" ")

    with pytest.raises(StartError, match=f"the checksum of .*{name}"):
        open_model(str(spoilt))


def test_changed_weights_are_not_baked(spoilt: Path, tmp_path: Path) -> None:
    """A checksum that is wrong fails the build, and leaves no directory behind."""
    flip_last_byte(spoilt / "model.safetensors")

    with pytest.raises(StartError, match=r"the checksum of .*model\.safetensors"):
        bake(str(spoilt), tmp_path / "target")
    assert not list(tmp_path.glob("target*"))


def test_changed_weights_are_not_served(spoilt: Path) -> None:
    """Weights too large to be hashed at each start are still covered: the fingerprint is computed anyway."""
    flip_last_byte(spoilt / "model.safetensors")
    forge_checksum_of_weights(spoilt)
    with handler_process({"CLIP_MODEL": str(spoilt)}) as process:
        status = process.wait_for_exit()
        log = process.log()

    assert 0 != status
    assert "and its manifest says" in log


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def forge_checksum_of_weights(directory: Path) -> None:
    manifest = json.loads((directory / MANIFEST).read_text())
    manifest["files"]["model.safetensors"]["sha256"] = sha256_of(directory / "model.safetensors")
    (directory / MANIFEST).write_text(json.dumps(manifest))


def test_missing_file_is_named(spoilt: Path) -> None:
    """What the manifest lists must be there."""
    (spoilt / "model.safetensors").unlink()

    with pytest.raises(StartError, match=r"has no model\.safetensors, which its manifest lists"):
        open_model(str(spoilt))


def test_unreadable_manifest_is_named(spoilt: Path) -> None:
    """Half a manifest is not taken for none."""
    (spoilt / MANIFEST).write_text("{")

    with pytest.raises(StartError, match="is not the manifest of a baked model"):
        open_model(str(spoilt))


def test_expected_fingerprint_is_insisted_on(tmp_path: Path) -> None:
    """Another model under the same name is not baked."""
    with pytest.raises(StartError, match="expected 2-0123456789abcdef"):
        bake(str(TINY_MODEL), tmp_path / "target", expected="2-0123456789abcdef")
    assert not list(tmp_path.glob("target*"))


def test_expected_fingerprint_of_version_1_is_explained(tmp_path: Path) -> None:
    """It cannot be met any more, and a build that names one must learn why."""
    with pytest.raises(StartError, match="expected is 7bf860063b1eaba3, a version-1 fingerprint"):
        bake(str(TINY_MODEL), tmp_path / "target", expected="7bf860063b1eaba3")


def test_existing_target_is_kept(baked: Path) -> None:
    """Nothing is overwritten."""
    with pytest.raises(StartError, match="exists"):
        bake(str(TINY_MODEL), baked)


def test_other_preprocessing_than_ours_is_noticed(spoilt: Path) -> None:
    """The comparison with transformers can fail: here its processor swaps the channels' means."""
    preprocessor = json.loads((spoilt / "preprocessor_config.json").read_text())
    directory = open_model(str(spoilt))
    preprocessor["image_mean"] = [0.9, 0.1, 0.5]
    (spoilt / "preprocessor_config.json").write_text(json.dumps(preprocessor))

    with pytest.raises(StartError, match="the vectors of images differ from transformers'"):
        compare_with_transformers(directory)


def test_weights_that_are_not_numbers_are_noticed(spoilt: Path) -> None:
    """A NaN is no small difference."""
    directory = open_model(str(spoilt))
    weights = load_file(spoilt / "model.safetensors")
    weights["text_projection.weight"][:] = float("nan")
    save_file(weights, spoilt / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(StartError, match="the vectors of texts differ"):
        compare_with_transformers(directory)


def test_command_fails_with_one_line(tmp_path: Path) -> None:
    """A build must stop here, and say why."""
    command = [sys.executable, "-m", "core.clip.bake", str(tmp_path / "nothing"), str(tmp_path / "target")]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert 1 == finished.returncode
    assert finished.stderr.startswith("cannot bake: CLIP_MODEL: ")
    assert 1 == finished.stderr.count("\n")
