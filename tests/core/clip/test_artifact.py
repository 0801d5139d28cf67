"""Finding a model: by directory, in the hub's cache, in either file format; and one line when it is not there."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core.clip.artifact import find_snapshot, open_model
from core.clip.fingerprint import fingerprint
from core.clip.towers import Towers
from core.clip.weights import read_weights
from core.errors import StartError
from core.settings import DEFAULT_MODEL, load_settings
from tools.testbed.process import TINY_MODEL

REVISION = "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the bundled model that a test may change."""
    return Path(shutil.copytree(TINY_MODEL, tmp_path / "model"))


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    """The bundled model with its weights as pytorch_model.bin, as the hub's own directory of ViT-B/32 has them."""
    copied = tmp_path / "pickled"
    shutil.copytree(TINY_MODEL, copied)
    weights = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    torch.save({**weights, "vision_model.embeddings.position_ids": torch.arange(50)}, copied / "pytorch_model.bin")
    return copied


def print_of(path: Path) -> str:
    directory = open_model(str(path))
    return fingerprint(read_weights(directory), directory, pixel_rules=1)


def towers_of(path: Path) -> Towers:
    directory = open_model(str(path))
    return Towers.of(directory, read_weights(directory))


def test_file_format_does_not_matter(pickled: Path) -> None:
    """The same weights as a pickle have the same fingerprint and load into the same model."""
    expected, actual = (towers_of(path).images.state_dict() for path in (TINY_MODEL, pickled))

    assert print_of(TINY_MODEL) == print_of(pickled)
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_pickle_that_is_code_is_not_run(pickled: Path) -> None:
    """A weights file is data: one that wants to call a function is refused."""
    torch.save({"weight": print}, pickled / "pytorch_model.bin")

    with pytest.raises(StartError, match="cannot be read"):
        read_weights(open_model(str(pickled)))


def as_newer_versions_save_it(model: Path, **changed: object) -> None:
    """Add the processor_config.json that transformers has written since version 5."""
    image_processor = json.loads((model / "preprocessor_config.json").read_bytes())
    written = {"image_processor": {**image_processor, **changed}, "processor_class": "CLIPProcessor"}
    (model / "processor_config.json").write_text(json.dumps(written))


def test_preprocessing_is_read_from_the_file_of_newer_versions(model: Path) -> None:
    """It may be the only one that there is."""
    as_newer_versions_save_it(model, image_mean=[0.1, 0.2, 0.3])
    (model / "preprocessor_config.json").unlink()

    assert (0.1, 0.2, 0.3) == open_model(str(model)).mean


def test_two_files_that_say_the_same_are_one_model(model: Path) -> None:
    """Hub models that were saved again have both."""
    as_newer_versions_save_it(model)

    assert print_of(TINY_MODEL) == print_of(model)


def test_two_files_that_differ_are_refused(model: Path) -> None:
    """Which one counts would depend on the version that reads them."""
    as_newer_versions_save_it(model, image_mean=[0.1, 0.2, 0.3])

    with pytest.raises(StartError, match=r"processor_config\.json and preprocessor_config\.json, which differ"):
        open_model(str(model))


def test_file_of_newer_versions_without_images_leaves_it_to_the_other_one(model: Path) -> None:
    """Some versions wrote nothing of images into it."""
    (model / "processor_config.json").write_text('{"processor_class": "CLIPProcessor"}')

    assert print_of(TINY_MODEL) == print_of(model)


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        pytest.param(["config.json"], "config.json", id="configuration"),
        pytest.param(["tokenizer.json"], "tokenizer.json", id="tokenizer"),
        pytest.param(
            ["preprocessor_config.json"], "preprocessor_config.json or processor_config.json", id="preprocessing"
        ),
        pytest.param(["model.safetensors"], r"weights \(model\.safetensors or pytorch_model\.bin\)", id="weights"),
    ],
)
def test_missing_file_is_named(model: Path, names: list[str], missing: str) -> None:
    """With every name that it could have."""
    for name in names:
        (model / name).unlink()

    with pytest.raises(StartError, match=rf"\ACLIP_MODEL: .* has no {missing}\Z"):
        open_model(str(model))


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize(
    "content", ["", "[]", "1", "[" * 100_000], ids=["empty", "a list", "a number", "a list without end"]
)
def test_file_that_is_no_configuration_is_one_line(model: Path, name: str, content: str) -> None:
    """It names the file."""
    (model / name).write_text(content)

    with pytest.raises(StartError, match=rf"\ACLIP_MODEL: .*/{name}[^\n]*\Z"):
        open_model(str(model))


def test_missing_tensor_is_named(pickled: Path) -> None:
    """A checkpoint without one of its tensors is never filled up with random numbers."""
    weights = load_file(TINY_MODEL / "model.safetensors")
    torch.save(
        {name: tensor for name, tensor in weights.items() if name != "text_projection.weight"},
        pickled / "pytorch_model.bin",
    )

    with pytest.raises(StartError, match=r"text_projection\.weight"):
        towers_of(pickled)


def test_hub_model_is_found_in_the_cache_at_its_pinned_revision(tmp_path: Path) -> None:
    """Offline, the hub's id opens what was fetched before, without the hub's library, under the contract's names."""
    snapshot = tmp_path / "hub" / "models--openai--clip-vit-base-patch32" / "snapshots" / REVISION
    shutil.copytree(TINY_MODEL, snapshot)
    program = (
        f"import sys; from core.clip.artifact import open_model; model = open_model({DEFAULT_MODEL!r}, offline=True);"
        "print(model.path, model.model_name, model.pretrained, 'huggingface_hub' in sys.modules)"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)

    assert f"{snapshot} ViT-B-32 openai False\n" == done.stdout


@pytest.mark.parametrize(
    ("environ", "hub"),
    [
        pytest.param({"HF_HUB_CACHE": "{0}/hub"}, "hub", id="the cache itself"),
        pytest.param({"HF_HUB_CACHE": "{0}/hub", "HF_HOME": "{0}/nowhere"}, "hub", id="the cache before its home"),
        pytest.param({"HF_HOME": "{0}"}, "hub", id="its home"),
        pytest.param({"XDG_CACHE_HOME": "{0}"}, "huggingface/hub", id="the user's caches"),
    ],
)
def test_snapshot_is_looked_for_where_the_library_keeps_it(tmp_path: Path, environ: dict[str, str], hub: str) -> None:
    """The variables are those of huggingface_hub, in its order."""
    snapshot = tmp_path / hub / "models--owner--name" / "snapshots" / REVISION
    shutil.copytree(TINY_MODEL, snapshot)
    given = {name: value.format(tmp_path) for name, value in environ.items()}

    assert snapshot == find_snapshot(given, "owner/name", REVISION)


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "preprocessor_config.json", "model.safetensors"])
def test_half_a_snapshot_is_left_to_the_library(tmp_path: Path, missing: str) -> None:
    """It may have been interrupted, and can go on."""
    snapshot = tmp_path / "models--owner--name" / "snapshots" / REVISION
    shutil.copytree(TINY_MODEL, snapshot)
    (snapshot / missing).unlink()

    assert find_snapshot({"HF_HUB_CACHE": str(tmp_path)}, "owner/name", REVISION) is None


@pytest.mark.parametrize("revision", [None, "main", REVISION[:12]], ids=["none", "a branch", "a short commit"])
def test_only_a_commit_is_found_without_the_library(tmp_path: Path, revision: str | None) -> None:
    """What a name stands for can change; a folder of that name would not."""
    shutil.copytree(TINY_MODEL, tmp_path / "models--owner--name" / "snapshots" / str(revision))

    assert find_snapshot({"HF_HUB_CACHE": str(tmp_path)}, "owner/name", revision) is None


def cached_by_runpod(hub: Path, reference: str = f"{REVISION}\n") -> Path:
    """The bundled model as an endpoint's cached model, at what `main` was; returns its snapshot."""
    folder = hub / "models--owner--name"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(reference, "utf-8")
    return Path(shutil.copytree(TINY_MODEL, folder / "snapshots" / REVISION))


@pytest.mark.parametrize("revision", [None, "main", REVISION], ids=["none", "the branch", "the commit"])
def test_cached_model_of_runpod_is_found(tmp_path: Path, revision: str | None) -> None:
    """Without a pinned revision it is what RunPod has fetched: nobody here can ask what `main` is now."""
    snapshot = cached_by_runpod(tmp_path / "runpod")
    environ = {"HF_HUB_CACHE": str(tmp_path / "nothing")}

    assert snapshot == find_snapshot(environ, "owner/name", revision, runpod_models=tmp_path / "runpod")


def test_cached_model_of_another_commit_is_not_taken(tmp_path: Path) -> None:
    """A pinned name gives the same vectors next year, whatever `main` has become."""
    cached_by_runpod(tmp_path)

    assert find_snapshot({}, "owner/name", "0" * 40, runpod_models=tmp_path) is None
    assert find_snapshot({}, "owner/name", "another-branch", runpod_models=tmp_path) is None


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "preprocessor_config.json", "model.safetensors"])
def test_half_a_cached_model_is_not_taken(tmp_path: Path, missing: str) -> None:
    """Nor is a file whose link leads nowhere: the hub's cache links a name to its content when that is whole."""
    snapshot = cached_by_runpod(tmp_path)
    (snapshot / missing).unlink()
    (snapshot / missing).symlink_to(tmp_path / "blobs" / "not-yet")

    assert find_snapshot({}, "owner/name", None, runpod_models=tmp_path) is None


@pytest.mark.parametrize(
    "reference",
    ["", "main", REVISION[:12], f"../../{REVISION}", "\u00e9" * 40],
    ids=["nothing", "a name", "a short commit", "climbing", "no ASCII"],
)
def test_reference_that_is_no_commit_is_not_followed(tmp_path: Path, reference: str) -> None:
    """Even where it leads to a model: it names one folder of the snapshots, or nothing."""
    snapshot = cached_by_runpod(tmp_path, reference)
    shutil.copytree(TINY_MODEL, snapshot.parent / reference, dirs_exist_ok=True)

    assert find_snapshot({}, "owner/name", None, runpod_models=tmp_path) is None


def test_cache_of_the_user_comes_before_runpods(tmp_path: Path) -> None:
    """Who has set one has put the model there."""
    cached_by_runpod(tmp_path / "runpod")
    own = tmp_path / "own" / "models--owner--name" / "snapshots" / REVISION
    shutil.copytree(TINY_MODEL, own)
    environ = {"HF_HUB_CACHE": str(tmp_path / "own")}

    assert own == find_snapshot(environ, "owner/name", REVISION, runpod_models=tmp_path / "runpod")


def test_model_name_leads_to_the_cached_model(tmp_path: Path) -> None:
    """From RunPod's variable to its folder, without a network and without the hub's library."""
    snapshot = cached_by_runpod(tmp_path)
    settings = load_settings({"ALLOW_INSECURE_AUTH": "1", "MODEL_NAME": "owner/name"})

    model = open_model(settings.clip_model, revision=None, offline=True, runpod_models=tmp_path)

    assert (snapshot, "name", "owner") == (model.path, model.model_name, model.pretrained)
    assert "owner/name" == model.hub_id


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("./nowhere", id="relative path"),
        pytest.param("nowhere", id="neither path nor id"),
        pytest.param("a/b/c", id="too many parts"),
        pytest.param("owner/../name", id="climbing"),
        pytest.param("no-such-owner/no-such-model", id="not in the cache"),
    ],
)
def test_unknown_source_is_one_line(source: str) -> None:
    """What cannot be opened names the setting."""
    with pytest.raises(StartError, match=r"\ACLIP_MODEL: [^\n]*\Z"):
        open_model(source, offline=True)
