"""A tower with its layers in int8: one pass over samples rounds each as it is reached, on what the ones before give."""

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from core.clip.graph_files import INT8_GROUP_SIZE
from core.clip.int8.rounding import Int8Weights, round_weights

_LARGEST = 127


@dataclass(frozen=True, slots=True)
class Samples:
    """What a tower takes, all in one batch; `seen` (n, tokens) are the tokens that count, all without it."""

    batch: torch.Tensor
    seen: torch.Tensor | None = None

    def first(self, count: int) -> "Samples":
        """Return a few of them."""
        return Samples(self.batch[:count], None if self.seen is None else self.seen[:count])

    def rows(self, activations: torch.Tensor) -> torch.Tensor:
        """Return (rows, width): what a layer gets or gives, of the tokens that count."""
        if self.seen is not None and activations.shape[:-1] == self.seen.shape:
            return activations[self.seen]
        return activations.reshape(-1, activations.shape[-1])


@dataclass(frozen=True, slots=True)
class Int8Tower:
    """`tower` computes in float32 with the weights that `layers` stand for, by the names of its modules."""

    tower: nn.Module
    layers: Mapping[str, Int8Weights]


def linear_layers(tower: nn.Module) -> Mapping[str, nn.Linear]:
    """Return what can be int8, by name, in the order in which the model has them."""
    return {name: module for name, module in tower.named_modules() if isinstance(module, nn.Linear)}


def round_tower(tower: nn.Module, samples: Samples, *, leave: Collection[str] = ()) -> Int8Tower:
    """Return a copy of `tower` in int8 but for the layers to `leave`, which stay as they are.

    Each bias takes up what rounding has moved the layer's outputs by on average, here and in the layers before.
    """
    means = _mean_outputs(tower, samples)
    copied, rounded = copy.deepcopy(tower), dict[str, Int8Weights]()

    def round_one(name: str, layer: nn.Linear, given: torch.Tensor) -> torch.Tensor:
        if name not in leave:
            rows = samples.rows(given).double()
            rounded[name] = round_weights(layer.weight.numpy(), (rows.T @ rows / len(rows)).numpy())
            layer.weight.copy_(torch.from_numpy(rounded[name].float32()))
        result = functional.linear(given, layer.weight, layer.bias)
        if layer.bias is None:
            return result
        moved = samples.rows(result).mean(dim=0) - means[name]
        layer.bias.sub_(moved)
        return result - moved

    with torch.no_grad(), _instead(linear_layers(copied), round_one):
        copied(samples.batch)
    return Int8Tower(copied, rounded)


def costs(tower: nn.Module, rounded: Int8Tower, samples: Samples) -> Mapping[str, float]:
    """Return, for each layer in int8, how far it alone moves the tower's vectors: the mean distance.

    As it will run, with its inputs in int8 as well; its mean is made up for, as in `round_tower`.
    """
    with torch.no_grad():
        expected = tower(samples.batch)
        return {
            name: float((_with_one(tower, name, layer, samples) - expected).norm(dim=1).mean())
            for name, layer in rounded.layers.items()
        }


def _with_one(tower: nn.Module, name: str, layer: Int8Weights, samples: Samples) -> torch.Tensor:
    weights = torch.from_numpy(layer.float32())

    def run(_name: str, module: nn.Linear, given: torch.Tensor) -> torch.Tensor:
        exact = functional.linear(given, module.weight, module.bias)
        result = functional.linear(inputs_in_int8(given), weights, module.bias)
        return result - samples.rows(result - exact).mean(dim=0)

    with _instead({name: linear_layers(tower)[name]}, run):
        vectors: torch.Tensor = tower(samples.batch)
    return vectors


def inputs_in_int8(given: torch.Tensor) -> torch.Tensor:
    """What OpenVINO makes of a layer's inputs (…, inputs): integers times a scale per group of each token."""
    padded = functional.pad(given, (0, -given.shape[-1] % INT8_GROUP_SIZE))
    groups = padded.view(*given.shape[:-1], -1, INT8_GROUP_SIZE)
    scales = groups.abs().amax(dim=-1, keepdim=True).clamp_min(torch.finfo(given.dtype).tiny) / _LARGEST
    rounded: torch.Tensor = (groups / scales).round() * scales
    return rounded.flatten(-2)[..., : given.shape[-1]]


def multiplications(tower: nn.Module, samples: Samples) -> Mapping[str, int]:
    """Return how many of one sample each layer does: what it has to gain from int8."""
    counted = dict[str, int]()

    def count(name: str, layer: nn.Linear, given: torch.Tensor) -> torch.Tensor:
        counted[name] = given[0].numel() * layer.out_features
        return functional.linear(given, layer.weight, layer.bias)

    with torch.no_grad(), _instead(linear_layers(tower), count):
        tower(samples.batch[:1])
    return counted


def _mean_outputs(tower: nn.Module, samples: Samples) -> Mapping[str, torch.Tensor]:
    means = dict[str, torch.Tensor]()

    def note(name: str, layer: nn.Linear, given: torch.Tensor) -> torch.Tensor:
        result = functional.linear(given, layer.weight, layer.bias)
        means[name] = samples.rows(result).mean(dim=0)
        return result

    with torch.no_grad(), _instead(linear_layers(tower), note):
        tower(samples.batch)
    return means


@contextmanager
def _instead(
    layers: Mapping[str, nn.Linear], run: Callable[[str, nn.Linear, torch.Tensor], torch.Tensor]
) -> Iterator[None]:
    """Let `run` give each layer's output, from its name, itself and its input."""

    def hook(name: str, layer: nn.Linear, given: tuple[Any, ...], _result: torch.Tensor) -> torch.Tensor:
        return run(name, layer, given[0])

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_hook(partial(hook, name)).remove)
        yield
