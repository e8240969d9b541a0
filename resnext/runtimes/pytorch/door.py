"""Opens the live network on PyTorch, and says what keeps PyTorch from it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping

import torch

from resnext.errors import MissingRequirement
from resnext.findings import Finding
from resnext.runtimes.buffers import CudaMemory, HostMemory
from resnext.runtimes.registry import Device, SessionOptions, require_cuda
from resnext.weights.spec import Weights

from .session import TorchSession

#: Inductor needs a C++ compiler for a CPU, Triton a C compiler for its launchers; the variable that
#: names one is first.
_COMPILERS: Mapping[str, tuple[str, ...]] = {
    "cpu": ("CXX", "c++", "g++", "clang++"),
    "cuda": ("CC", "cc", "gcc", "clang"),
}


def open_session(subject: Weights, options: SessionOptions, name: str) -> TorchSession:
    """Open eager PyTorch (``torch``), the same with batch norms folded (``torch-folded``), or
    Inductor's code.

    Raises:
        MissingRequirement: no CUDA device, or a PyTorch build without CUDA, though CUDA was asked
            for.
    """
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingRequirement(_NO_CUDA.message, hint=_NO_CUDA.hint)
    return TorchSession(subject, options, name, CudaMemory() if device == "cuda" else HostMemory())


#: Said if PyTorch finds no CUDA device on a machine that has one.
_NO_CUDA = Finding(
    "no-torch-cuda",
    f"PyTorch {torch.__version__} cannot use this machine's CUDA device",
    "install a CUDA build of torch (pytorch.org, Get Started), or use `device` cpu",
)


def available(name: str, device: Device, *, given: bool) -> Finding | None:
    """What PyTorch lacks here: a CUDA device if one is requested, and for ``torch-compile`` a
    compiler.
    """
    del given  # nothing is made ahead
    if device == "cuda":
        require_cuda()
        if not torch.cuda.is_available():
            return _NO_CUDA
    if name != "torch-compile":
        return None
    on_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    variable, *names = _COMPILERS["cuda" if on_cuda else "cpu"]
    if any(shutil.which(compiler) for compiler in (os.environ.get(variable), *names) if compiler):
        return None
    return Finding(
        "no-compiler",
        "torch-compile needs a C and C++ compiler",
        f"apt-get install g++ (or set {variable}), or use `backend` torch",
    )
