"""One module for each runtime, and the registry that opens them by name.

A backend's name is what ``--backend`` takes. ``source`` says what it runs: the live PyTorch
``model``, an ``onnx`` artifact, an engine, or a compiled package. A module is imported only when
its backend is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any, Literal, Protocol

from resnext.artifact.files import Artifact
from resnext.errors import MissingRequirement, UnknownName, UsageError, first_line
from resnext.precision import LIVE, PRECISIONS, Precision
from resnext.weights.spec import Weights

from .session import Session


@dataclass(frozen=True)
class SessionOptions:
    """What every backend understands.

    Attributes:
        device: ``cpu``, ``cuda`` or ``auto`` (CUDA where the runtime has it).
        threads: threads inside one operator on a CPU; None means one for each physical core.
        memory_format: ``nchw``, ``channels-last``, or ``auto``: whichever a short trial finds
            faster (for ``torch-folded``: channels-last).
        cuda_graph: replay a CUDA graph where the runtime can.
        precision: of weights and activations, for a live model; an artifact has its own.
        merge_groups: input channels that each group of a live model's convolutions has at least;
            ``auto`` is whichever a short trial finds fastest, None leaves the groups alone.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    memory_format: Literal["auto", "nchw", "channels-last"] = "auto"
    cuda_graph: bool = True
    precision: Precision = "fp32"
    merge_groups: int | Literal["auto"] | None = None


class Opener(Protocol):
    """What a backend's module offers under the name ``open_session``."""

    def __call__(self, subject: Any, options: SessionOptions, name: str) -> Session:
        """Open ``subject``: `Weights` where the backend's source is the model, else an
        `Artifact`.
        """


@dataclass(frozen=True)
class Backend:
    """One way to run the network.

    Attributes:
        module: the module under `resnext.runtimes` that opens it.
        source: what it runs, and so what must be built first: the live model, or an artifact of
            that format.
        device: the only device it runs on, or ``auto``.
        about: one line for ``--help``.
        precisions: that it can run, on some machine at least.
    """

    module: str
    source: Literal["model", "onnx", "trt", "trt-rtx", "pt2"]
    device: Literal["auto", "cpu", "cuda"]
    about: str
    precisions: tuple[Precision, ...] = tuple(PRECISIONS)


#: ONNX Runtime rewrites float8 graphs wrongly, before any provider sees them.
_NOT_FP8: tuple[Precision, ...] = tuple(name for name in PRECISIONS if name != "fp8")
#: And of its own convolutions, those of the CPU provider have no bfloat16, those of the CUDA
#: provider no int8 either.
_ORT_CPU: tuple[Precision, ...] = ("fp32", "fp16", "int8")
_ORT_CUDA: tuple[Precision, ...] = ("fp32", "fp16")


#: Every backend that works, by name.
BACKENDS: Mapping[str, Backend] = MappingProxyType(
    {
        "torch": Backend("pytorch.session", "model", "auto", "eager PyTorch", LIVE),
        "torch-folded": Backend(
            "pytorch.session",
            "model",
            "auto",
            "eager PyTorch, batch norms folded, channels-last",
            LIVE,
        ),
        "torch-compile": Backend(
            "pytorch.session", "model", "auto", "torch.compile with Inductor", LIVE
        ),
        "ort": Backend(
            "ort.door",
            "onnx",
            "auto",
            "ONNX Runtime on the best device that it has here",
            _ORT_CPU,
        ),
        "ort-cpu": Backend("ort.door", "onnx", "cpu", "ONNX Runtime, CPU provider", _ORT_CPU),
        "ort-cuda": Backend("ort.door", "onnx", "cuda", "ONNX Runtime, CUDA provider", _ORT_CUDA),
        "ort-trt": Backend(
            "ort.door",
            "onnx",
            "cuda",
            "ONNX Runtime, TensorRT provider (TensorRT 10)",
            _NOT_FP8,
        ),
        "ort-trt-rtx": Backend(
            "ort.door", "onnx", "cuda", "ONNX Runtime, TensorRT-RTX plugin provider", _NOT_FP8
        ),
        "openvino": Backend(
            "openvino.session",
            "onnx",
            "cpu",
            "OpenVINO on the CPU, from ONNX or from its own IR",
            _NOT_FP8,
        ),
        "trt": Backend(
            "trt.session", "trt", "cuda", "TensorRT, or TensorRT-RTX where only that is installed"
        ),
        "trt-rtx": Backend("trt.session", "trt-rtx", "cuda", "TensorRT-RTX"),
        "pt2": Backend(
            "pt2.session",
            "pt2",
            "auto",
            "a package that AOTInductor compiled ahead of time",
            ("fp32", "fp16"),
        ),
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


def open_session(
    name: str, subject: Weights | Artifact, options: SessionOptions | None = None
) -> Session:
    """Open ``subject`` on backend ``name``.

    Args:
        name: a key of `BACKENDS`.
        subject: what the backend runs: `Weights` for a ``model`` backend, an `Artifact` for the
            others.
        options: device, threads, memory format, CUDA graphs.

    Raises:
        UnknownName: no such backend.
        UsageError: the backend cannot run that subject, or not on the device asked for.
        MissingRequirement: the machine lacks the device, or the environment the package.
    """
    options = options or SessionOptions()
    known = backend(name)
    if (known.source == "model") != isinstance(subject, Weights):
        runs = {"model": "weights", "onnx": "an ONNX artifact", "pt2": "a .pt2 package"}.get(
            known.source, "an engine"
        )
        raise UsageError(f"backend {name!r} runs {runs}")
    if isinstance(subject, Artifact):
        check_subject(name, subject)
    else:
        check_precision(name, options.precision)
    check_device(name, options.device)
    if options.device == "cuda" or (known.device == "cuda" and known.source == "onnx"):
        require_cuda()
    return load_backend(name)(subject, options, name)


def check_precision(name: str, precision: Precision) -> None:
    """Check that backend ``name`` can run ``precision``.

    Raises:
        UsageError: it never can; names those that can.
    """
    if precision not in backend(name).precisions:
        able = [other for other, known in BACKENDS.items() if precision in known.precisions]
        raise UsageError(
            f"backend {name!r} does not run {precision}; --backend {', '.join(able)} can"
        )


def check_device(name: str, device: Literal["auto", "cpu", "cuda"]) -> None:
    """Check that backend ``name`` is for ``device``, whether this machine has it or not.

    Raises:
        UsageError: it never runs there.
    """
    known = backend(name)
    if known.device != "auto" and device not in ("auto", known.device):
        raise UsageError(f"backend {name!r} runs on {known.device} only; drop --device {device}")


def natural_backend(artifact: Artifact) -> str:
    """The backend that runs ``artifact`` where none is named: its own, and ``ort`` for an ONNX file
    if that can.
    """
    manifest = artifact.manifest
    if manifest.kind != "onnx":
        return manifest.kind
    return "ort" if manifest.precision in BACKENDS["ort"].precisions else "openvino"


def check_subject(name: str, subject: Artifact) -> None:
    """Check that backend ``name`` runs artifacts of the kind and precision of ``subject``.

    Raises:
        UsageError: it never can; names what can.
    """
    known, kind = backend(name), subject.manifest.kind
    if kind in (known.source, name) or (known.source == "trt" and kind == "trt-rtx"):
        check_precision(name, subject.manifest.precision)
        return
    other = ""
    if name == "pt2":
        other = "; a package is made from the weights: resnext-export --format pt2"
    elif kind == "onnx":
        other = f"; build an engine of it: --format {name} --onnx {subject.directory}"
    raise UsageError(
        f"backend {name!r} runs artifacts of kind {known.source}, and {subject.directory} is of"
        f" kind {kind}: use --backend {'ort' if kind == 'onnx' else kind}{other}"
    )


def load_backend(name: str) -> Opener:
    """Import the module of backend ``name``; returns what opens it.

    Raises:
        UnknownName: no such backend.
        MissingRequirement: its package is not installed, or does not load.
    """
    try:
        opener: Opener = import_module(f"resnext.runtimes.{backend(name).module}").open_session
    except ModuleNotFoundError as exc:
        raise MissingRequirement(no_package(name, str(exc.name))) from exc
    except (ImportError, OSError) as exc:
        raise MissingRequirement(broken_package(name, exc)) from exc
    return opener


def no_package(name: str, package: str) -> str:
    """What is said if a Python package that backend ``name`` needs is not installed."""
    return f"backend {name!r} needs the Python package {package}: pip install {package}"


def broken_package(name: str, error: Exception) -> str:
    """What is said if a package of backend ``name`` is installed, and ``error`` came of importing
    it.
    """
    return (
        f"backend {name!r} is installed but does not load: {first_line(error)}; install its package"
        " again"
    )


def require_cuda() -> None:
    """Check that this machine has a CUDA driver with a device, through the driver alone.

    Raises:
        MissingRequirement: says which of the two is missing, and what works here.
    """
    from resnext.machine.cuda_driver import probe_driver

    driver = probe_driver()
    if driver.problem is not None:
        raise MissingRequirement(
            f"no CUDA device: {driver.problem}; on this machine use --device cpu, "
            "or --backend torch, torch-compile, ort-cpu"
        )
