"""Opens the live network on PyTorch, or says why PyTorch cannot run it here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping

import torch

from resnext.errors import MissingRequirement
from resnext.findings import Finding
from resnext.kernels import OLDEST_GPU
from resnext.machine.machine import Machine, this_machine
from resnext.runtimes.buffers import CudaMemory, HostMemory
from resnext.runtimes.registry import Device, SessionOptions, require_cuda
from resnext.runtimes.tensor_session import TensorSession
from resnext.weights.spec import Weights

from .session import TorchSession

#: Inductor needs a C++ compiler for a CPU, Triton a C compiler for its launchers: the variable that
#: overrides it, then the usual names.
_COMPILERS: Mapping[str, tuple[str, ...]] = {
    "cpu": ("CXX", "c++", "g++", "clang++"),
    "cuda": ("CC", "cc", "gcc", "clang"),
}
#: Runtimes that compile code here.
_COMPILED = ("torch-compile", "torch-fused")


def open_session(subject: Weights, options: SessionOptions, name: str) -> TensorSession:
    """Open eager PyTorch (``torch``), the same with batch norms folded (``torch-folded``),
    Inductor's code, or the toolkit's kernels (``torch-fused``).

    Raises:
        MissingRequirement: CUDA was requested, and there is no device, or PyTorch is built without
            CUDA; for ``torch-fused``, the device is too old.
    """
    on_cuda = options.device != "cpu" and torch.cuda.is_available()
    if (options.device == "cuda" or name == "torch-fused") and not on_cuda:
        _require_cuda(name, this_machine())
        problem = _no_cuda(name)
        raise MissingRequirement(problem.message, hint=problem.hint)
    if name == "torch-fused":
        if too_old := _too_old(this_machine()):
            raise MissingRequirement(too_old.message, hint=too_old.hint)
        from .fused import FusedSession

        return FusedSession(subject, options, name, CudaMemory())
    return TorchSession(subject, options, name, CudaMemory() if on_cuda else HostMemory())


#: What runs the network where ``torch-fused`` cannot.
_ELSEWHERE = "use `backend` torch-folded or torch-compile"


def available(name: str, device: Device, machine: Machine, *, prebuilt: bool) -> Finding | None:
    """What PyTorch lacks here: a CUDA device if one is requested, and for ``torch-compile`` a
    compiler.
    """
    del prebuilt  # nothing is made in advance
    if device == "cuda" or name == "torch-fused":
        _require_cuda(name, machine)
        if not torch.cuda.is_available():
            return _no_cuda(name)
    if name == "torch-fused" and (problem := _too_old(machine)):
        return problem
    if name not in _COMPILED:
        return None
    on_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    # Triton builds the launchers of its kernels.
    variable, *names = _COMPILERS["cuda" if on_cuda else "cpu"]
    if any(shutil.which(compiler) for compiler in (os.environ.get(variable), *names) if compiler):
        return None
    return Finding(
        "no-compiler",
        f"{name} needs a C and C++ compiler",
        f"apt-get install g++ (or set {variable}), or use `backend` torch",
    )


def _require_cuda(name: str, machine: Machine) -> None:
    try:
        require_cuda(machine.driver)
    except MissingRequirement as exc:
        if name != "torch-fused":
            raise
        # The usual hint, `device` cpu, is what this backend refuses.
        raise MissingRequirement(exc.message, hint=_ELSEWHERE) from None


def _no_cuda(name: str) -> Finding:
    """Said if PyTorch finds no CUDA device on a machine that has one."""
    otherwise = _ELSEWHERE if name == "torch-fused" else "use `device` cpu"
    return Finding(
        "no-torch-cuda",
        f"PyTorch {torch.__version__} cannot use this machine's CUDA device",
        f"install a CUDA build of torch (pytorch.org, Get Started), or {otherwise}",
    )


def _too_old(machine: Machine) -> Finding | None:
    for gpu in machine.driver.gpus[:1]:
        if tuple(map(int, gpu.compute_capability.split("."))) < OLDEST_GPU:
            return Finding(
                "old-gpu",
                "torch-fused needs a GPU of compute capability"
                f" {'.'.join(map(str, OLDEST_GPU))}, and {gpu.name} has {gpu.compute_capability}",
                _ELSEWHERE,
            )
    return None
