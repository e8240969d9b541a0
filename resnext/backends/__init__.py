"""One module for each runtime, and the registry that opens them by name.

A backend's name is what ``--backend`` takes. ``source`` says what it runs: the live PyTorch ``model``, or an
``onnx`` artifact. A module is imported only when its backend is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any, Literal, Protocol

from ..artifact import Artifact
from ..config import Precision
from ..errors import MissingRequirement, UnknownName, UsageError
from ..session import Session
from ..weights import Weights


@dataclass(frozen=True)
class SessionOptions:
    """What every backend understands.

    Attributes:
        device: ``cpu``, ``cuda`` or ``auto`` (CUDA where the runtime has it).
        threads: threads inside one operator on a CPU; None means one for each physical core.
        memory_format: ``nchw``, ``channels-last``, or ``auto``: whichever a short trial finds faster.
        cuda_graph: replay a CUDA graph where the runtime can.
        precision: of weights and activations, for a live model; an artifact has its own.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    memory_format: Literal["auto", "nchw", "channels-last"] = "auto"
    cuda_graph: bool = True
    precision: Precision = "fp32"


class Opener(Protocol):
    """What a backend's module offers under the name ``open_session``."""

    def __call__(self, subject: Any, options: SessionOptions, name: str) -> Session:
        """Open ``subject``: `Weights` where the backend's source is the model, else an `Artifact`."""


@dataclass(frozen=True)
class Backend:
    """One way to run the network.

    Attributes:
        module: the module under `resnext.backends` that opens it.
        source: what it runs, and so what must be built first.
        device: the only device it runs on, or ``auto``.
        about: one line for ``--help``.
    """

    module: str
    source: Literal["model", "onnx"]
    device: Literal["auto", "cpu", "cuda"]
    about: str


#: Every backend that works, by name.
BACKENDS: Mapping[str, Backend] = MappingProxyType(
    {
        "torch": Backend("torch_session", "model", "auto", "eager PyTorch"),
        "torch-compile": Backend("torch_session", "model", "auto", "torch.compile with Inductor"),
        "ort": Backend("ort_session", "onnx", "auto", "ONNX Runtime on the best device that it has here"),
        "ort-cpu": Backend("ort_session", "onnx", "cpu", "ONNX Runtime, CPU provider"),
        "ort-cuda": Backend("ort_session", "onnx", "cuda", "ONNX Runtime, CUDA provider"),
    }
)


def backend(name: str) -> Backend:
    """The backend called ``name``.

    Raises:
        UnknownName: there is none; lists all and the nearest.
    """
    try:
        return BACKENDS[name]
    except KeyError:
        raise UnknownName("backend", name, BACKENDS) from None


def open_session(name: str, subject: Weights | Artifact, options: SessionOptions | None = None) -> Session:
    """Open ``subject`` on backend ``name``.

    Args:
        name: a key of `BACKENDS`.
        subject: what the backend runs: `Weights` for a ``model`` backend, an `Artifact` for the others.
        options: device, threads, memory format, CUDA graphs.

    Raises:
        UnknownName: no such backend.
        UsageError: the backend cannot run that subject, or not on the device asked for.
        MissingRequirement: the machine lacks the device, or the environment the package.
    """
    options = options or SessionOptions()
    known = backend(name)
    if (known.source == "model") != isinstance(subject, Weights):
        raise UsageError(f"backend {name!r} runs {'weights' if known.source == 'model' else 'an ONNX artifact'}")
    if known.device != "auto" and options.device not in ("auto", known.device):
        raise UsageError(f"backend {name!r} runs on {known.device} only; drop --device {options.device}")
    if options.device == "cuda" or known.device == "cuda":
        require_cuda()
    return load_backend(name)(subject, options, name)


def load_backend(name: str) -> Opener:
    """Import the module of backend ``name``; returns what opens it.

    Raises:
        UnknownName: no such backend.
        MissingRequirement: its package is not installed.
    """
    try:
        opener: Opener = import_module(f".{backend(name).module}", __name__).open_session
    except ModuleNotFoundError as exc:
        raise MissingRequirement(
            f"backend {name!r} needs the Python package {exc.name}: pip install {exc.name}"
        ) from exc
    return opener


def available_backends(device: str = "auto") -> tuple[str, ...]:
    """Every backend that can run here on ``device``, each runtime and device once (so not ``ort``, an alias)."""
    import shutil

    names = ["torch"]
    # Inductor needs a C++ compiler for a CPU, Triton a C compiler for its launchers.
    compilers = ("cc", "gcc", "clang") if device == "cuda" else ("c++", "g++", "clang++")
    if any(shutil.which(compiler) for compiler in compilers):
        names.append("torch-compile")
    if device != "cuda":
        names.append("ort-cpu")
    if device != "cpu":
        try:
            from .ort_session import cuda_works
        except ModuleNotFoundError:  # asked for by name, the backend says what is missing
            return tuple(names)
        if cuda_works():
            names.append("ort-cuda")
    return tuple(names)


def require_cuda() -> None:
    """Check that this machine has a CUDA driver with a device, through the driver alone.

    Raises:
        MissingRequirement: says which of the two is missing, and what works here.
    """
    from ..cuda_driver import probe_driver

    driver = probe_driver()
    if driver.problem is not None:
        raise MissingRequirement(
            f"no CUDA device: {driver.problem}; on this machine use --device cpu, "
            "or --backend torch, torch-compile, ort-cpu"
        )
