"""Whether ONNX Runtime can use CUDA on this machine."""

from __future__ import annotations

import contextlib
import functools
import sys

import numpy as np
import onnxruntime as ort

from resnext.findings import Finding
from resnext.machine.cuda_driver import Driver

_PROVIDER = "CUDAExecutionProvider"


def cuda_obstacle(driver: Driver) -> Finding | None:
    """Why this ONNX Runtime cannot use the CUDA device of ``driver``; None if it can."""
    if _PROVIDER not in ort.get_available_providers():
        return Finding(
            "no-ort-cuda",
            f"this onnxruntime ({ort.__version__}) has no CUDA provider",
            "pip uninstall onnxruntime, pip install onnxruntime-gpu",
        )
    if not cuda_works(driver):
        return Finding(
            "no-ort-cuda",
            f"onnxruntime {ort.__version__} cannot use CUDA here: it needs cuBLAS and cuDNN of the"
            " CUDA version that it was built for",
            "pip install 'onnxruntime-gpu[cuda,cudnn]', or a torch build of that CUDA version",
        )
    return None


@functools.lru_cache(maxsize=1)
def cuda_works(driver: Driver) -> bool:
    """Whether ONNX Runtime can use CUDA here: it runs one small convolution on the device.

    That needs a build with CUDA, the driver, and cuBLAS and cuDNN of the right versions, which
    PyTorch's CUDA wheels bring.
    """
    if _PROVIDER not in ort.get_available_providers() or driver.problem is not None:
        return False
    preload_libraries()
    quiet = ort.SessionOptions()
    quiet.log_severity_level = 4
    try:
        session = ort.InferenceSession(
            _small_convolution(), quiet, providers=[_PROVIDER], enable_fallback=0
        )
        if session.get_providers()[0] != _PROVIDER:
            return False
        session.run(None, {"x": np.zeros((1, 1, 3, 3), np.float32)})
    except Exception:  # onnxruntime's errors have no common base
        return False
    return True


def preload_libraries() -> None:
    """Load the CUDA libraries that PyTorch's wheels bring; onnxruntime's prints go to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        ort.preload_dlls()


def _small_convolution() -> bytes:
    from onnx import TensorProto, helper

    weight = helper.make_tensor("w", TensorProto.FLOAT, (1, 1, 3, 3), [1.0] * 9)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 1, 3, 3))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 1, 1, 1))],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
