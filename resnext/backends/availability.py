"""What keeps each backend from running on this machine: one table, asked before anything is exported or compiled."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from types import MappingProxyType
from typing import Literal, TypeAlias

from .. import cuda_driver
from ..errors import MissingRequirement
from ..trt_flavour import EngineKind, driver_or_refuse, flavour_for
from . import BACKENDS, backend, no_package, require_cuda

Device: TypeAlias = Literal["auto", "cpu", "cuda"]
#: Inductor needs a C++ compiler for a CPU, Triton a C compiler for its launchers.
_COMPILERS: Mapping[str, tuple[str, ...]] = {"cpu": ("c++", "g++", "clang++"), "cuda": ("cc", "gcc", "clang")}


def obstacle(name: str, device: Device = "auto") -> str | None:
    """Why backend ``name`` cannot run here; nothing is exported, compiled or loaded onto a device to find out.

    It is about running what the backend makes itself. An artifact that is given has its own conditions
    (`resnext.passport`), and a package that is given needs no compiler.

    Args:
        name: a key of `BACKENDS`.
        device: to run on; ``auto`` is the best that the backend has here.

    Returns:
        One line, what is missing and what to do; None if nothing is known against it.

    Raises:
        UnknownName: no such backend.
    """
    known = backend(name)
    if known.device != "auto" and device not in ("auto", known.device):
        return f"it runs on {known.device} only; drop --device {device}"
    try:
        return OBSTACLES[name](device)
    except MissingRequirement as exc:
        return str(exc)
    except ModuleNotFoundError as exc:
        return no_package(name, str(exc.name))


def available_backends(device: Device = "auto") -> tuple[str, ...]:
    """Every backend that can run here on ``device``, each runtime and device once: no aliases."""
    return tuple(name for name in BACKENDS if not _is_alias(name) and obstacle(name, device) is None)


def _is_alias(name: str) -> bool:
    if name == "trt":  # or TensorRT-RTX, if only that is installed
        try:
            return flavour_for("trt").kind != "trt"
        except MissingRequirement:
            return False
    return name == "ort"


def _torch(device: Device) -> str | None:
    if device != "cuda":
        return None
    require_cuda()
    import torch

    if torch.cuda.is_available():
        return None
    return (
        f"PyTorch {torch.__version__} cannot use this machine's CUDA device; install a CUDA build of torch "
        "(pytorch.org, Get Started), or use --device cpu"
    )


def _torch_compile(device: Device) -> str | None:
    if reason := _torch(device):
        return reason
    import torch

    on_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if any(shutil.which(compiler) for compiler in _COMPILERS["cuda" if on_cuda else "cpu"]):
        return None
    return "torch-compile needs a C and C++ compiler: apt-get install g++, or use --backend torch"


def _ort(device: Device) -> str | None:
    if find_spec("onnxruntime") is None:
        return no_package("ort", "onnxruntime")
    return _ort_cuda(device) if device == "cuda" else None


def _ort_cuda(_device: Device) -> str | None:
    require_cuda()
    from .ort_session import cuda_obstacle

    return cuda_obstacle()


def _ort_trt(_device: Device) -> str | None:
    require_cuda()
    from .ort_trt_libraries import load_tensorrt10

    load_tensorrt10()
    return None


def _ort_trt_rtx(_device: Device) -> str | None:
    require_cuda()
    from .ort_trt_libraries import plugin_device

    plugin_device(cuda_driver.probe_driver())
    return None


def _openvino(_device: Device) -> str | None:
    return None if find_spec("openvino") is not None else no_package("openvino", "openvino")


def _engine(kind: EngineKind, _device: Device) -> str | None:
    from ..passport import serves

    flavour = flavour_for(kind)
    driver = driver_or_refuse(flavour)
    if serves(flavour, driver):
        return None
    gpu = driver.gpus[0]
    return (
        f"{flavour.title} does not take {gpu.name} (compute capability {gpu.compute_capability}); use --backend "
        f"{'trt' if kind == 'trt-rtx' else 'ort-cuda'}"
    )


def _pt2(device: Device) -> str | None:
    if device == "cuda" and (reason := _torch(device)):
        return reason
    from ..package_toolchain import obstacle as toolchain_obstacle

    return toolchain_obstacle(device)


#: The question for each backend; it returns the reason, or raises MissingRequirement with it.
OBSTACLES: Mapping[str, Callable[[Device], str | None]] = MappingProxyType(
    {
        "torch": _torch,
        "torch-folded": _torch,
        "torch-compile": _torch_compile,
        "ort": _ort,
        "ort-cpu": _ort,
        "ort-cuda": _ort_cuda,
        "ort-trt": _ort_trt,
        "ort-trt-rtx": _ort_trt_rtx,
        "openvino": _openvino,
        "trt": partial(_engine, "trt"),
        "trt-rtx": partial(_engine, "trt-rtx"),
        "pt2": _pt2,
    }
)
