"""Triton's backends for the kinds of artifacts, and its names of element types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Backend:
    """What Triton runs one kind of artifact with.

    Attributes:
        name: as ``backend`` in the configuration.
        platform: older name of the same, which configurations may have instead; "" if none.
        file: model file without ``default_model_filename``.
        batches: it takes any batch up to ``max_batch_size``; otherwise that one size alone.
        gpu: it runs on a GPU alone; False: on a CPU alone; None: on both.
    """

    name: str
    platform: str
    file: str
    batches: bool
    gpu: bool | None


#: By kind of artifact. OpenVINO's backend fixes the batch to ``max_batch_size`` when it reads a
#: model: smaller batches are refused, or filled up. Without ``max_batch_size`` it takes any.
BACKENDS: Mapping[str, Backend] = MappingProxyType(
    {
        "onnx": Backend("onnxruntime", "onnxruntime_onnx", "model.onnx", True, None),
        "openvino": Backend("openvino", "", "model.xml", False, False),
        "trt": Backend("tensorrt", "tensorrt_plan", "model.plan", True, True),
    }
)
#: Why there is no repository of the other kinds.
WITHOUT: Mapping[str, str] = MappingProxyType(
    {
        "pt2": "a package runs with the PyTorch that compiled it, and a server has its own",
        "trt-rtx": "Triton's backend loads engines of TensorRT, not of TensorRT-RTX",
    }
)
#: Triton's name of each element type, by NumPy's.
TYPES: Mapping[str, str] = MappingProxyType(
    {
        "bool": "TYPE_BOOL",
        "uint8": "TYPE_UINT8",
        "uint16": "TYPE_UINT16",
        "uint32": "TYPE_UINT32",
        "uint64": "TYPE_UINT64",
        "int8": "TYPE_INT8",
        "int16": "TYPE_INT16",
        "int32": "TYPE_INT32",
        "int64": "TYPE_INT64",
        "float16": "TYPE_FP16",
        "bfloat16": "TYPE_BF16",
        "float32": "TYPE_FP32",
        "float64": "TYPE_FP64",
    }
)
