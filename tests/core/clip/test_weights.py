"""Weights as numbers: the same from every type and file, without torch where there is no pickle, else one line."""

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from core.clip.artifact import open_model
from core.clip.fingerprint import fingerprint
from core.clip.weights import read_weights
from core.errors import StartError
from tools.testbed.process import TINY_MODEL

_SAFETENSORS = "model.safetensors"
_PICKLE = "pytorch_model.bin"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the bundled model whose weights a test may replace."""
    return Path(shutil.copytree(TINY_MODEL, tmp_path / "model"))


def print_of(path: Path) -> str:
    directory = open_model(str(path))
    return fingerprint(read_weights(directory), directory, pixel_rules=1)


def coarse() -> dict[str, torch.Tensor]:
    """The bundled weights, rounded so that float16 and bfloat16 hold each of them exactly: 8 bits, 2^-14 and more."""
    weights = {name: tensor.bfloat16().float() for name, tensor in load_file(TINY_MODEL / _SAFETENSORS).items()}
    return {name: torch.where(tensor.abs() < 2**-14, 0.0, tensor).contiguous() for name, tensor in weights.items()}


def write_safetensors(path: Path, dtype: torch.dtype) -> None:
    save_file({name: tensor.to(dtype) for name, tensor in coarse().items()}, path / _SAFETENSORS)


def write_pickle(path: Path, dtype: torch.dtype) -> None:
    (path / _SAFETENSORS).unlink()
    torch.save({name: tensor.to(dtype) for name, tensor in coarse().items()}, path / _PICKLE)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("write", [write_safetensors, write_pickle])
def test_numeric_type_of_the_file_does_not_matter(
    model: Path, write: Callable[[Path, torch.dtype], None], dtype: torch.dtype
) -> None:
    """The same numbers in half or twice the bytes are the same model."""
    write_safetensors(model, torch.float32)
    expected = print_of(model)
    write(model, dtype)

    assert expected == print_of(model)


def test_numbers_are_those_that_torch_reads(model: Path) -> None:
    """Every bfloat16 there is, the infinities included, widens to the float32 that torch makes of it."""
    every = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    save_file({"every": every, "one": torch.tensor(0.5, dtype=torch.float16)}, model / _SAFETENSORS)

    weights = read_weights(open_model(str(model)))

    np.testing.assert_array_equal(every.float().numpy(), weights["every"].float32())
    assert () == weights["one"].shape
    assert 0.5 == weights["one"].float32()


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"logit_scale": torch.tensor(1.0)}, id="the factor of similarities"),
        pytest.param({"vision_model.embeddings.position_ids": torch.arange(50)}, id="constants of old checkpoints"),
    ],
)
def test_tensors_that_decide_no_vector_are_not_read(model: Path, more: dict[str, torch.Tensor]) -> None:
    """The same vectors have the same fingerprint, whatever else training has left in the file."""
    expected = print_of(model)
    save_file({**load_file(model / _SAFETENSORS), **more}, model / _SAFETENSORS)

    assert expected == print_of(model)


def test_changing_what_was_read_leaves_the_file(model: Path) -> None:
    """The mapping is private: whoever writes into it writes into a copy."""
    before = (model / _SAFETENSORS).read_bytes()
    read_weights(open_model(str(model)))["text_projection.weight"].float32()[...] = 0

    assert before == (model / _SAFETENSORS).read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"not a header", id="no header"),
        pytest.param(lambda data: data[:-1], id="cut off"),
        pytest.param(lambda data: data + b"\0", id="a byte too many"),
        pytest.param(lambda data: struct.pack("<Q", 2**60) + data[8:], id="a header without end"),
        pytest.param(lambda data: data.replace(b'"F32"', b'"U64"', 1), id="a type of other size"),
    ],
)
def test_damaged_safetensors_are_one_line(model: Path, content: Callable[[bytes], bytes]) -> None:
    """It names the file and the setting."""
    path = model / _SAFETENSORS
    path.write_bytes(content(path.read_bytes()))

    with pytest.raises(StartError, match=r"\ACLIP_MODEL: the weights in .*model\.safetensors cannot be read: [^\n]+\Z"):
        read_weights(open_model(str(model)))


def test_type_that_is_not_known_is_named(model: Path) -> None:
    """Numbers that would have to be guessed are refused."""
    save_file({"scaled": torch.zeros(4, dtype=torch.float8_e4m3fn)}, model / _SAFETENSORS)

    with pytest.raises(StartError, match="F8_E4M3"):
        read_weights(open_model(str(model)))


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(b"not a pickle"), id="no pickle"),
        pytest.param(lambda path: torch.save([torch.zeros(1)], path), id="a list"),
        pytest.param(lambda path: torch.save({"weight": 1}, path), id="a number that is no tensor"),
    ],
)
def test_damaged_pickle_is_one_line(model: Path, write: Callable[[Path], object]) -> None:
    """The same line as for safetensors."""
    (model / _SAFETENSORS).unlink()
    write(model / _PICKLE)

    with pytest.raises(StartError, match=r"\ACLIP_MODEL: the weights in .*pytorch_model\.bin cannot be read: "):
        read_weights(open_model(str(model)))
