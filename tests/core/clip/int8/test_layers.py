"""A tower's layers in int8: which are rounded, what biases make good, and which tokens have a say."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from core.clip.artifact import ModelDirectory, open_model
from core.clip.graph_files import INT8_GROUP_SIZE
from core.clip.int8.graphs import put_int8
from core.clip.int8.layers import Samples, costs, inputs_in_int8, linear_layers, multiplications, round_tower
from core.clip.openvino_export import graph_of_texts
from core.clip.tokenizer import ClipTokenizer
from core.clip.towers import TextTower, Towers
from core.clip.weights import read_weights
from tools.testbed.process import TINY_MODEL

TEXTS = [f"a {size} {colour} circle" for size in ("small", "large") for colour in ("red", "green", "blue", "yellow")]


@pytest.fixture(scope="module")
def directory() -> ModelDirectory:
    return open_model(str(TINY_MODEL))


@pytest.fixture(scope="module")
def tower(directory: ModelDirectory) -> TextTower:
    return Towers.of(directory, read_weights(directory)).texts


@pytest.fixture(scope="module")
def samples(directory: ModelDirectory) -> Samples:
    tokenizer = ClipTokenizer.of(directory)
    return Samples(torch.from_numpy(tokenizer.pad([tokenizer.encode(text)[0] for text in TEXTS])))


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_every_layer_is_rounded_and_the_tower_given_is_not(tower: TextTower, samples: Samples) -> None:
    """The copy computes with what the integers stand for."""
    before = {name: layer.weight.clone() for name, layer in linear_layers(tower).items()}

    rounded = round_tower(tower, samples)

    assert list(before) == list(rounded.layers)
    for name, layer in linear_layers(rounded.tower).items():
        assert np.array_equal(layer.weight.numpy(), rounded.layers[name].float32())
        assert torch.equal(before[name], linear_layers(tower)[name].weight)


def test_layers_to_leave_keep_their_weights(tower: TextTower, samples: Samples) -> None:
    """They are in no list of integers either."""
    leave = ["blocks.0.perceptron.narrow", "project"]

    rounded = round_tower(tower, samples, leave=leave)

    assert set(linear_layers(tower)) - set(leave) == set(rounded.layers)
    for name in leave:
        assert torch.equal(linear_layers(tower)[name].weight, linear_layers(rounded.tower)[name].weight)


def test_biases_make_good_what_rounding_moves_on_average(tower: TextTower, samples: Samples) -> None:
    """Of the last layer with a bias: its mean output is what it was."""
    seen: list[torch.Tensor] = []

    def note(_layer: torch.nn.Module, _given: object, result: torch.Tensor) -> None:
        seen.append(result.reshape(-1, result.shape[-1]).mean(dim=0))

    rounded = round_tower(tower, samples).tower
    for one in (tower, rounded):
        handle = linear_layers(one)["pooling.perceptron.narrow"].register_forward_hook(note)
        one(samples.batch)
        handle.remove()

    assert torch.allclose(seen[0], seen[1], atol=1e-4)


def test_tokens_that_do_not_count_have_no_say(tower: TextTower, samples: Samples) -> None:
    """What stands behind the end of a text decides nothing, so it must not decide how layers are rounded."""
    counting = torch.zeros(samples.batch.shape, dtype=torch.bool)
    counting[:, :4] = True
    other = samples.batch.clone()
    other[:, 6:] = 1

    one = round_tower(tower, Samples(samples.batch, counting), leave=_pooling(tower)).layers
    two = round_tower(tower, Samples(other, counting), leave=_pooling(tower)).layers

    assert all(np.array_equal(one[name].values, two[name].values) for name in one)


def _pooling(tower: TextTower) -> list[str]:
    """The layers that see one token of each text, which these tests move."""
    return [name for name in linear_layers(tower) if not name.startswith("blocks")]


def test_layer_of_large_weights_costs_more(tower: TextTower, samples: Samples) -> None:
    """Costs are of each layer alone, and none is free."""
    found = costs(tower, round_tower(tower, samples), samples)

    assert set(linear_layers(tower)) == set(found)
    assert all(cost > 0 for cost in found.values())


def test_multiplications_are_those_of_the_matrices(tower: TextTower, samples: Samples) -> None:
    """Tokens times inputs times outputs; the pooled token is one."""
    work, tokens = multiplications(tower, samples), samples.batch.shape[1]

    assert tokens * 128 * 512 == work["blocks.0.perceptron.widen"]
    assert 128 * 512 == work["project"]


def test_inputs_have_a_scale_for_each_group_of_each_token() -> None:
    """An outlier spoils its own group and no other; the widths need not be whole groups."""
    given = torch.linspace(-1, 1, 2 * 3 * 100).reshape(2, 3, 100).clone()
    given[0, 0, 0] = 1000.0

    change = (inputs_in_int8(given) - given).abs()

    assert change.shape == given.shape
    assert change[0, 0, :INT8_GROUP_SIZE].max() > 0.5
    assert change[0, 0, INT8_GROUP_SIZE:].max() < 0.005
    assert change[1].max() < 0.005


def test_zero_inputs_stay_zero() -> None:
    """No scale is zero."""
    assert not inputs_in_int8(torch.zeros(2, 100)).any()


def test_graph_takes_only_layers_that_it_was_made_of(tower: TextTower, samples: Samples) -> None:
    """A mix-up of towers is no graph in int8."""
    rounded = round_tower(tower, samples)
    graph = graph_of_texts(tower)

    with pytest.raises(ValueError, match="has other weights"):
        put_int8(graph, rounded.layers)
    with pytest.raises(ValueError, match="nowhere is not in the graph"):
        put_int8(graph, {"nowhere": rounded.layers["project"]})
