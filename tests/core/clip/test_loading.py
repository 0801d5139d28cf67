"""Loading a model as every entry point does: what it imports, what it reads, and what it says when it cannot."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core.clip.artifact import open_model
from core.clip.fingerprint import fingerprint_of_hashes, hash_weights
from core.clip.hash_record import HashRecord
from core.clip.loading import load_model
from core.clip.weights import read_weights
from core.errors import StartError
from core.settings import ServiceSettings, load_settings
from tools.testbed.process import MODEL_CACHE, ROOT, TINY_MODEL

FINGERPRINT = "7bf860063b1eaba3"

# What a start does in core.clip, up to the first vectors; the answer is what it has imported of what costs seconds.
_START = """
import json, os, sys
import numpy as np
from core.clip.loading import load_model
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

    assert [FINGERPRINT] == [path.parent.name.partition("-")[0] for path in tmp_path.glob("*/texts.xml")]


def forge_record(model: Path, cache: Path) -> str:
    """Put another model's hash on record for this file, as if a file system had hidden that it was replaced since.

    Returns the other model's fingerprint.
    """
    directory = open_model(str(model))
    HashRecord.of(directory.weights_path, cache, lambda: 2**62).remember(b"another model's")
    return fingerprint_of_hashes(b"another model's", directory.tokenizer_path, pixel_rules=1, dim=directory.dim)


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
