"""Import OpenVINO without its telemetry, which reports each import to its makers.

The report needs the internet, and leaves a number of this user in the home folder. OpenVINO does
without the package where it is not installed, so the others import OpenVINO from here.
"""

import sys

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

from openvino import (  # noqa: E402
    Core,
    Input,
    Model,
    Node,
    Output,
    PartialShape,
    Type,
    opset13,
    save_model,
)
from openvino.frontend import FrontEndManager  # noqa: E402

__all__ = [
    "Core",
    "FrontEndManager",
    "Input",
    "Model",
    "Node",
    "Output",
    "PartialShape",
    "Type",
    "opset13",
    "save_model",
]
