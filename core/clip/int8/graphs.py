"""A tower in int8 as a graph of OpenVINO: eight-bit constants and a scale per output where the weights were."""

from collections.abc import Mapping

import numpy as np

from core.clip.int8.rounding import Int8Weights
from core.clip.silent_openvino import openvino, operations

_PREFIX = "self."
_SUFFIX = ".weight"


def put_int8(graph: openvino.Model, layers: Mapping[str, Int8Weights]) -> None:
    """Replace the constants of `layers`, by the names of their modules, in a graph that was made from them.

    OpenVINO's CPU plugin takes constant, conversion and scale for a layer in int8, and multiplies integers where the
    processor can. Raises `ValueError` for a layer that the graph has not, or has with other weights.
    """
    missing = set(layers)
    for constant in graph.get_ordered_ops():
        name = constant.get_friendly_name().removeprefix(_PREFIX).removesuffix(_SUFFIX)
        if constant.get_type_name() != "Constant" or name not in missing:
            continue
        layer = layers[name]
        if not np.array_equal(constant.data, layer.float32()):
            raise ValueError(f"{name} has other weights in the graph")
        values = operations.convert(operations.constant(layer.values), "f32")
        scaled = operations.multiply(values, operations.constant(layer.scales[:, None]))
        for taker in constant.output(0).get_target_inputs():
            taker.replace_source_output(scaled.output(0))
        missing.discard(name)
    if missing:
        raise ValueError(f"{sorted(missing)[0]} is not in the graph")
