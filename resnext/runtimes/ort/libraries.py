"""The libraries under ONNX Runtime's two TensorRT providers: whether they are installed, load, and
support the GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import importlib.util
import os
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import onnxruntime as ort

from resnext.errors import MissingRequirement, first_line
from resnext.machine.cuda_driver import Driver

from .cuda_probe import cuda_works

#: ONNX Runtime's own provider, which is part of its wheel and linked with TensorRT 10.
TENSORRT_PROVIDER = "TensorrtExecutionProvider"
#: The Python package of NVIDIA's plugin for TensorRT-RTX.
_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"


def load_tensorrt10(driver: Driver) -> str:
    """Load TensorRT 10, which ONNX Runtime's provider is linked with, from wheel or system.

    Args:
        driver: with a device.

    Returns:
        TensorRT's version.

    Raises:
        MissingRequirement: this ONNX Runtime has no such provider, or TensorRT 10, cuBLAS or cuDNN
            is missing.
    """
    if TENSORRT_PROVIDER not in ort.get_available_providers():
        raise MissingRequirement(
            f"this onnxruntime ({ort.__version__}) has no TensorRT provider",
            hint="pip uninstall onnxruntime, pip install onnxruntime-gpu",
        )
    cuda = (getattr(ort, "cuda_version", None) or "13").partition(".")[0]
    wheel = importlib.util.find_spec("tensorrt_libs")
    folders = [Path(folder) for folder in wheel.submodule_search_locations or ()] if wheel else []
    reason = ""
    for folder in (*folders, Path()):  # an empty path: the loader searches
        try:
            library = ctypes.CDLL(str(folder / "libnvinfer.so.10"))
            with contextlib.suppress(OSError):  # only models with TensorRT's own operators need it
                ctypes.CDLL(str(folder / "libnvinfer_plugin.so.10"))
            ctypes.CDLL(str(folder / "libnvonnxparser.so.10"))
        except OSError as exc:
            reason = first_line(exc)
            continue
        if not cuda_works(driver):
            raise MissingRequirement(
                f"onnxruntime {ort.__version__} cannot use CUDA here: its TensorRT provider needs"
                f" cuBLAS and cuDNN for CUDA {cuda} too",
                hint="pip install 'onnxruntime-gpu[cuda,cudnn]'",
            )
        number = int(library.getInferLibVersion())
        return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    newer = any(any(folder.glob("libnvinfer.so.11*")) for folder in folders)
    newer = newer or find_library("nvinfer") == "libnvinfer.so.11"
    problem = "only TensorRT 11 is installed" if newer else f"it is not found ({reason})"
    raise MissingRequirement(
        f"onnxruntime {ort.__version__}'s TensorRT provider needs TensorRT 10, and {problem}",
        hint=f'pip install "tensorrt-cu{cuda}<11"{", or use `backend` trt" if newer else ""}',
    )


def plugin_device(driver: Driver) -> tuple[str, Any]:
    """Register the plugin for TensorRT-RTX.

    Args:
        driver: with a device.

    Returns:
        The plugin's version, and ONNX Runtime's entry for the first GPU.

    Raises:
        MissingRequirement: the plugin is not installed, does not load, or does not support this
            GPU.
    """
    try:
        plugin = importlib.import_module(_PLUGIN)
    except ModuleNotFoundError as exc:
        raise MissingRequirement(
            "ONNX Runtime's plugin for TensorRT-RTX is not installed (no Python package"
            f" {exc.name})",
            hint=f"pip install {_PLUGIN.replace('_', '-')}",
        ) from exc
    name, version = plugin.get_ep_name(), str(plugin.__version__)
    try:
        _register(name, plugin.get_library_path())
        listed = [device for device in ort.get_ep_devices() if device.ep_name == name]
    except Exception as exc:  # onnxruntime's errors have no common base
        raise MissingRequirement(
            f"{_PLUGIN} {version} does not load into onnxruntime {ort.__version__}:"
            f" {first_line(exc)}",
            hint="it needs a driver for its CUDA version, see pip show"
            " onnxruntime-ep-nv-tensorrt-rtx",
        ) from exc
    for device in listed:  # it takes one device, and everything else here works on the first
        memory = device.memory_info(ort.OrtDeviceMemoryType.DEFAULT)
        if memory is None or memory.device_id == 0:
            return version, device
    gpus = (
        ", ".join(f"{gpu.name} with {gpu.compute_capability}" for gpu in driver.gpus[:1])
        or "not named by the driver"
    )
    raise MissingRequirement(
        f"{_PLUGIN} {version} does not support the first GPU ({gpus}): it lists compute capability"
        " 8.6, 8.9 and 12.0 on, so RTX 30, 40 and 50",
        hint="choose another GPU with CUDA_VISIBLE_DEVICES, or use `backend` ort-cuda or trt",
    )


def tf32_is_off() -> bool:
    """Whether the environment tells NVIDIA's libraries not to round float32 to TF32; neither
    provider has an option for it.
    """
    return os.environ.get("NVIDIA_TF32_OVERRIDE") == "0"


@functools.lru_cache(maxsize=1)
def _register(name: str, library: str) -> None:
    ort.register_execution_provider_library(name, library)  # a second time would be an error
