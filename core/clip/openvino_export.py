"""Both towers as OpenVINO's graphs, made from torch once per model. Imported only where they are not there yet."""

import errno
import logging
import os
import re
import warnings
from pathlib import Path

import torch

from core.clip.graph_files import IMAGES, TEXTS, scratch
from core.clip.silent_openvino import openvino
from core.clip.towers import Towers

logger = logging.getLogger(__name__)

_NUMBERED = re.compile(r"\w+_\d+")


def export(towers: Towers, graphs: Path, *, size_px: int) -> None:
    """Write both into the folder `graphs`. Another process that does the same at the same time does no harm."""
    logger.info("exporting the model for OpenVINO, once", extra={"folder": str(graphs)})
    graphs.parent.mkdir(parents=True, exist_ok=True)
    with scratch(graphs.parent) as unfinished:
        save(graph_of_images(towers.images, size_px=size_px), unfinished / IMAGES)
        save(graph_of_texts(towers.texts), unfinished / TEXTS)
        _publish(unfinished, graphs)


def graph_of_images(tower: torch.nn.Module, *, size_px: int) -> openvino.Model:
    """Return it for batches of any size. Its weights are constants, called `self.` and the name of the parameter."""
    return _traced(tower, torch.zeros((2, 3, size_px, size_px), dtype=torch.uint8), [-1, 3, size_px, size_px])


def graph_of_texts(tower: torch.nn.Module) -> openvino.Model:
    """The same, for texts of any length."""
    return _traced(tower, torch.zeros((2, 16), dtype=torch.long), [-1, -1])


def save(graph: openvino.Model, path: Path) -> None:
    """Write a graph, and its weights beside it as they are. The same model gives the same bytes.

    Raises `OSError`.
    """
    graph.set_friendly_name(path.stem)
    for number, node in enumerate(graph.get_ordered_ops()):
        # OpenVINO numbers what has no name through all of a process's life.
        if _NUMBERED.fullmatch(node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name()}_{number}")
    try:
        openvino.save_model(graph, path, compress_to_fp16=False)
    except RuntimeError as error:
        # All that its streams say of a full volume.
        raise OSError(errno.EIO, "OpenVINO could not write a graph: is there room?") from error


def _traced(tower: torch.nn.Module, example: torch.Tensor, shape: list[int]) -> openvino.Model:
    with warnings.catch_warnings():
        # Of tracing, which the converter does and torch advises against: the result is checked by the parity tests.
        warnings.simplefilter("ignore")
        return openvino.convert_model(tower, example_input=example, input=[shape])


def _publish(unfinished: Path, graphs: Path) -> None:
    """Move the finished files into place, weights before the graphs that name them."""
    graphs.mkdir(exist_ok=True)
    for path in sorted(unfinished.iterdir(), key=lambda file: file.suffix == ".xml"):
        os.replace(path, graphs / path.name)
