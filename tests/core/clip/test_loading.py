"""Loading a model as every entry point does: what it imports, what it reads, and what it says when it cannot."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file

from core.clip.artifact import open_model
from core.clip.fingerprint import fingerprint_of_hashes, hash_weights
from core.clip.hash_record import HashRecord
from core.clip.loading import LoadedModel, load_model
from core.clip.manifest import MANIFEST, Manifest
from core.clip.weights import read_weights
from core.errors import StartError
from core.settings import ServiceSettings, load_settings
from tools.testbed.process import MODEL_CACHE, ROOT, TINY_MODEL

FINGERPRINT = "2-506bf64fd54d7ed1"

# What a start does in core.clip, up to the first vectors; the answer is what it has imported of what costs seconds.
_START = """
import json, os, sys
import numpy as np
from core.clip.loading import LoadedModel, load_model
from core.clip.manifest import MANIFEST, Manifest
from core.settings import load_settings

model = load_model(load_settings(os.environ), pixel_rules=1)
[engine] = model.engines
engine.prepare_thread()
pixels = np.zeros((1, 3, model.directory.size_px, model.directory.size_px), dtype=np.uint8)
token_ids = model.tokenizer.pad([model.tokenizer.encode("x")[0]])
shapes = [engine.encode_images(pixels).shape, engine.encode_texts(token_ids).shape]
unwanted = [name for name in ("torch", "transformers", "huggingface_hub", "idna") if name in sys.modules]
print(json.dumps([model.fingerprint, shapes, unwanted]))
"""


def settings_of(model: Path, cache: Path, **more: str) -> ServiceSettings:
    return load_settings(environ_of(model, cache, **more))


def environ_of(model: Path, cache: Path, **more: str) -> dict[str, str]:
    here = {"CLIP_MODEL": str(model), "CLIP_CACHE_DIR": str(cache), "CLIP_DEVICE": "cpu", "ALLOW_INSECURE_AUTH": "1"}
    return {**here, "CLIP_DTYPE": "float32", **more}


def start(model: Path, cache: Path) -> list[object]:
    """In a fresh interpreter, on a machine where nothing but the driver says whether there is CUDA."""
    environ = {**environ_of(model, cache, CLIP_ENGINE="openvino"), "CLIP_DEVICE": "auto", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", _START]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
    answer: list[object] = json.loads(done.stdout)
    return answer


def with_pickle(model: Path) -> Path:
    """Turn a copy of the bundled model into one with a pytorch_model.bin."""
    weights = model / "model.safetensors"
    torch.save(load_file(weights), model / "pytorch_model.bin")
    weights.unlink()
    return model


def remember_weights(model: Path, cache: Path) -> None:
    """Put them on record as if the files had been there for long."""
    directory = open_model(str(model))
    record = HashRecord.of(directory.weights_path, cache, lambda: 2**62)
    record.remember(hash_weights(read_weights(directory)))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the bundled model that a test may change."""
    return Path(shutil.copytree(TINY_MODEL, tmp_path / "model"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache of the test's own with the bundled model's graphs in it, exported if no test has done so before."""
    load_model(settings_of(TINY_MODEL, MODEL_CACHE, CLIP_ENGINE="openvino"), pixel_rules=1)
    [graphs] = MODEL_CACHE.glob(f"{FINGERPRINT}-*")
    shutil.copytree(graphs, tmp_path / "cache" / graphs.name, ignore=shutil.ignore_patterns("*.blob"))
    return tmp_path / "cache"


def test_start_on_openvino_does_without_torch(cache: Path) -> None:
    """Whether the hash is on record or not: torch would double the time to the first vector."""
    expected = [FINGERPRINT, [[1, 512], [1, 512]], []]

    assert expected == start(TINY_MODEL, cache)
    remember_weights(TINY_MODEL, cache)
    assert expected == start(TINY_MODEL, cache)


def test_later_start_of_a_pickle_does_without_torch(model: Path, cache: Path) -> None:
    """The hub's own ViT-B/32 is one: only its first start has to read it."""
    with_pickle(model)
    remember_weights(model, cache)

    assert [FINGERPRINT, [[1, 512], [1, 512]], []] == start(model, cache)


def test_pickle_without_a_record_is_read(model: Path, cache: Path) -> None:
    """With torch, and to the same fingerprint."""
    with_pickle(model)

    loaded = load_model(settings_of(model, cache, CLIP_ENGINE="openvino"), pixel_rules=1)

    assert FINGERPRINT == loaded.fingerprint


def test_first_start_exports(tmp_path: Path) -> None:
    """Into the cache, under the fingerprint; a record is not needed for it."""
    load_model(settings_of(TINY_MODEL, tmp_path, CLIP_ENGINE="openvino"), pixel_rules=1)

    [graphs] = tmp_path.glob("*/texts.xml")

    assert graphs.parent.name.startswith(f"{FINGERPRINT}-openvino-")


@pytest.mark.parametrize("name", ["images.bin", "texts.xml"])
def test_kept_graph_that_was_cut_off_is_exported_again(tmp_path: Path, name: str) -> None:
    """By a full volume, or with the machine: else every start after it would fail until somebody empties the cache."""
    first = start(TINY_MODEL, tmp_path)
    [graph] = tmp_path.glob(f"*/{name}")
    whole = graph.read_bytes()
    graph.write_bytes(whole[: len(whole) // 2])
    # What is compiled is read without it, until a start on another processor, or by another version.
    for compiled in tmp_path.glob("*/*.blob"):
        compiled.unlink()
    second = start(TINY_MODEL, tmp_path)

    assert (first[:2], whole) == (second[:2], graph.read_bytes())


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))


def activate_by_gelu(model: Path) -> None:
    """Correct the activation of both towers in config.json."""

    def change(config: dict[str, Any]) -> None:
        config["text_config"]["hidden_act"] = config["vision_config"]["hidden_act"] = "gelu"

    edit(model / "config.json", change)


def change_mean(model: Path) -> None:
    """Correct mean and deviation in preprocessor_config.json."""
    edit(
        model / "preprocessor_config.json",
        lambda content: content.update(image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5]),
    )


def vectors_of(loaded: LoadedModel) -> npt.NDArray[np.float32]:
    """Of two images and three texts."""
    [engine] = loaded.engines
    size_px = loaded.directory.size_px
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, size_px, size_px), dtype=np.uint8)
    texts = ["a red circle", "two blue squares", "x"]
    token_ids = loaded.tokenizer.pad([loaded.tokenizer.encode(text)[0] for text in texts])
    return np.concatenate([engine.encode_images(pixels), engine.encode_texts(token_ids)])


@pytest.mark.parametrize("change", [activate_by_gelu, change_mean])
def test_corrected_configuration_is_served_from_the_same_cache(
    model: Path, cache: Path, change: Callable[[Path], None]
) -> None:
    """The graphs of the model as it was before are another model's: OpenVINO gives the vectors that torch gives."""
    openvino, torch_ = (settings_of(model, cache, CLIP_ENGINE=name) for name in ("openvino", "torch"))
    before = load_model(openvino, pixel_rules=1)
    old = vectors_of(before)
    change(model)

    loaded = [load_model(settings, pixel_rules=1) for settings in (torch_, openvino)]
    expected, actual = (vectors_of(one) for one in loaded)

    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)
    assert np.abs(expected - old).max() > 0.05
    assert loaded[0].fingerprint == loaded[1].fingerprint
    assert before.fingerprint != loaded[0].fingerprint


def test_graphs_that_were_baked_for_another_configuration_are_not_served(model: Path, cache: Path) -> None:
    """Neither are they when they lie in the model's own directory: somebody has corrected it since."""
    settings = settings_of(model, cache, CLIP_ENGINE="openvino")
    old = vectors_of(load_model(settings, pixel_rules=1))
    [graphs] = cache.glob(f"{FINGERPRINT}-*")
    shutil.copytree(graphs, model / graphs.name)
    activate_by_gelu(model)

    assert np.abs(vectors_of(load_model(settings, pixel_rules=1)) - old).max() > 0.05


@pytest.mark.parametrize("engine_name", ["openvino", "torch"])
def test_baked_directory_of_version_1_says_to_bake_again(model: Path, cache: Path, engine_name: str) -> None:
    """Its fingerprint is no longer computed, so nobody can tell whether it still holds."""
    manifest = Manifest(
        source="x", revision=None, model_name="x", pretrained="x", fingerprint="7bf860063b1eaba3", files={}
    )
    (model / MANIFEST).write_text(manifest.model_dump_json())

    with pytest.raises(StartError, match=r"7bf860063b1eaba3, a version-1 fingerprint.*: bake it again\Z"):
        load_model(settings_of(model, cache, CLIP_ENGINE=engine_name), pixel_rules=1)


@pytest.mark.parametrize("end_id", [49407, 0], ids=["of the real CLIP", "of nothing"])
def test_end_token_that_the_tokenizer_does_not_write_is_refused(model: Path, cache: Path, end_id: int) -> None:
    """Every text would get the vector of the start token, the same for all of them."""
    edit(model / "config.json", lambda config: config["text_config"].update(eos_token_id=end_id))

    with pytest.raises(StartError, match=f"ends a text with token 632, and config.json says {end_id}"):
        load_model(settings_of(model, cache, CLIP_ENGINE="torch"), pixel_rules=1)


def forge_record(model: Path, cache: Path) -> str:
    """Put another model's hash on record for this file, as if a file system had hidden that it was replaced since.

    Returns the other model's fingerprint.
    """
    directory = open_model(str(model))
    HashRecord.of(directory.weights_path, cache, lambda: 2**62).remember(b"another model's")
    return fingerprint_of_hashes(b"another model's", directory, pixel_rules=1)


def move_graphs(cache: Path, fingerprint: str) -> None:
    [graphs] = cache.glob(f"{FINGERPRINT}-*")
    graphs.rename(cache / graphs.name.replace(FINGERPRINT, fingerprint))


def test_record_without_graphs_is_not_believed(model: Path, cache: Path) -> None:
    """What is exported now is named by what is read now."""
    forge_record(model, cache)

    assert FINGERPRINT == load_model(settings_of(model, cache, CLIP_ENGINE="openvino"), pixel_rules=1).fingerprint


def test_record_names_the_graphs_that_are_served(model: Path, cache: Path) -> None:
    """Even a replaced file that looks the same gives no vectors under a wrong name: the old graphs, and their name."""
    other = forge_record(model, cache)
    move_graphs(cache, other)

    assert other == load_model(settings_of(model, cache, CLIP_ENGINE="openvino"), pixel_rules=1).fingerprint


def test_torch_hashes_what_it_serves(model: Path, cache: Path) -> None:
    """It runs the file's own numbers, so no record of them counts."""
    move_graphs(cache, forge_record(model, cache))

    assert FINGERPRINT == load_model(settings_of(model, cache, CLIP_ENGINE="torch"), pixel_rules=1).fingerprint


@pytest.mark.parametrize("engine_name", ["openvino", "torch"])
def test_unreadable_weights_are_one_line(model: Path, cache: Path, engine_name: str) -> None:
    """Whichever engine, the line names the file."""
    (model / "model.safetensors").write_bytes(b"not weights")

    with pytest.raises(StartError, match=r"\ACLIP_MODEL: the weights in .* cannot be read"):
        load_model(settings_of(model, cache, CLIP_ENGINE=engine_name), pixel_rules=1)


def test_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """The first start on OpenVINO needs it."""
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(StartError, match=r"\ACLIP_CACHE_DIR: "):
        load_model(settings_of(TINY_MODEL, tmp_path / "file" / "cache", CLIP_ENGINE="openvino"), pixel_rules=1)


def test_full_volume_is_one_line(tmp_path: Path) -> None:
    """And nothing half-written is left for the next start."""
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))\n"
    environ = environ_of(TINY_MODEL, tmp_path, CLIP_ENGINE="openvino")
    command = [sys.executable, "-c", full + _START]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)

    assert "StartError: CLIP_CACHE_DIR: " in done.stderr.splitlines()[-1]
    assert "is there room?" in done.stderr.splitlines()[-1]
    assert [] == list(tmp_path.rglob("*.xml"))
