"""What keeps each backend from running on this machine: one table, asked before anything is
exported or compiled.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from types import MappingProxyType
from typing import Literal, TypeAlias

from resnext.errors import MissingRequirement, UsageError
from resnext.machine import cuda_driver
from resnext.runtimes.trt.library import EngineKind, driver_or_refuse, flavour_for

from .registry import (
    BACKENDS,
    backend,
    broken_package,
    check_device,
    load_backend,
    no_package,
    require_cuda,
)

Device: TypeAlias = Literal["auto", "cpu", "cuda"]
#: Inductor needs a C++ compiler for a CPU, Triton a C compiler for its launchers; the variable that
#: names one is first.
_COMPILERS: Mapping[str, tuple[str, ...]] = {
    "cpu": ("CXX", "c++", "g++", "clang++"),
    "cuda": ("CC", "cc", "gcc", "clang"),
}


def obstacle(name: str, device: Device = "auto", *, given: bool = False) -> str | None:
    """Why backend ``name`` cannot run here; nothing is exported, compiled or loaded onto a device
    to find out.

    An artifact that is given has its own conditions beside these
    (`resnext.runtimes.compatibility`).

    Args:
        name: a key of `BACKENDS`.
        device: to run on; ``auto`` is the best that the backend has here.
        given: whether the engine or package to run is there already: a package needs no compiler
            then, and an engine may be for a GPU that the builder must be told of.

    Returns:
        One line, what is missing and what to do; None if nothing is known against it.

    Raises:
        UnknownName: no such backend.
    """
    backend(name)
    try:
        check_device(name, device)
        reason = OBSTACLES[name](device)
        return reason if reason or given or name not in MAKING else MAKING[name](device)
    except (UsageError, MissingRequirement) as exc:
        return str(exc)
    except ModuleNotFoundError as exc:
        return no_package(name, str(exc.name))
    except (ImportError, OSError) as exc:
        return broken_package(name, exc)


def require(name: str, device: Device = "auto", *, given: bool = False) -> None:
    """Check that nothing is known against backend ``name`` here; arguments are those of `obstacle`.

    Raises:
        UsageError: there is no such backend, or it never runs on ``device``.
        MissingRequirement: what is missing, and what to do.
    """
    check_device(name, device)
    if reason := obstacle(name, device, given=given):
        raise MissingRequirement(reason)


def available_backends(device: Device = "auto") -> tuple[str, ...]:
    """Every backend that can run here on ``device``, each runtime and device once: no aliases."""
    return tuple(
        name for name in BACKENDS if not _is_alias(name) and obstacle(name, device) is None
    )


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
        f"PyTorch {torch.__version__} cannot use this machine's CUDA device; install a CUDA build"
        " of torch (pytorch.org, Get Started), or use --device cpu"
    )


def _torch_compile(device: Device) -> str | None:
    if reason := _torch(device):
        return reason
    import torch

    on_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    variable, *names = _COMPILERS["cuda" if on_cuda else "cpu"]
    if any(shutil.which(compiler) for compiler in (os.environ.get(variable), *names) if compiler):
        return None
    return (
        f"torch-compile needs a C and C++ compiler: apt-get install g++ (or set {variable}), or use"
        " --backend torch"
    )


def _ort(device: Device) -> str | None:
    if find_spec("onnxruntime") is None:
        return no_package("ort", "onnxruntime")
    load_backend("ort")
    return _ort_cuda(device) if device == "cuda" else None


def _ort_cuda(_device: Device) -> str | None:
    require_cuda()
    from resnext.runtimes.ort.cuda_probe import cuda_obstacle

    return cuda_obstacle()


def _ort_trt(_device: Device) -> str | None:
    require_cuda()
    from resnext.runtimes.ort.libraries import load_tensorrt10

    load_tensorrt10()
    return None


def _ort_trt_rtx(_device: Device) -> str | None:
    require_cuda()
    from resnext.runtimes.ort.libraries import plugin_device

    plugin_device(cuda_driver.probe_driver())
    return None


def _openvino(_device: Device) -> str | None:
    if find_spec("openvino") is None:
        return no_package("openvino", "openvino")
    load_backend("openvino")
    return None


def _engine(kind: EngineKind, _device: Device) -> str | None:
    driver_or_refuse(flavour_for(kind))
    return None


def _builder(kind: EngineKind, _device: Device) -> str | None:
    from .compatibility import serves

    flavour = flavour_for(kind)
    driver = driver_or_refuse(flavour)
    if serves(flavour, driver):
        return None
    gpu = driver.gpus[0]
    return (
        f"{flavour.title} does not take {gpu.name} (compute capability {gpu.compute_capability});"
        f" use --backend {'trt' if kind == 'trt-rtx' else 'ort-cuda'}"
    )


def _toolchain(device: Device) -> str | None:
    from resnext.runtimes.pt2.toolchain import obstacle as toolchain_obstacle

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
        "pt2": _torch,
    }
)
#: Likewise, for making what it runs, unless that is given.
MAKING: Mapping[str, Callable[[Device], str | None]] = MappingProxyType(
    {"trt": partial(_builder, "trt"), "trt-rtx": partial(_builder, "trt-rtx"), "pt2": _toolchain}
)
