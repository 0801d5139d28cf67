"""OpenVINO, which otherwise tells its makers' Google Analytics that it was imported, and what was converted.

Nobody who serves strangers' images has agreed to that, and a start would wait for a process that sends it. Its package
for telemetry is a dependency that cannot be left out; where it cannot be imported OpenVINO has a stub in its place.
Whoever needs OpenVINO imports it from here.
"""

import sys

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # what makes an import fail: see importlib

import openvino  # type: ignore[import-untyped] # noqa: E402
import openvino.opset13 as operations  # type: ignore[import-untyped] # noqa: E402

__all__ = ["openvino", "operations"]
