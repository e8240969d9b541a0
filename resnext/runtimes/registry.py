"""All runtimes by name, as plain data: formats, devices and precisions.

Importing this loads no framework and no pydantic, so that help texts can list the runtimes. A
runtime's folder is imported only to check its availability (`resnext.runtimes.availability`) or to
open a session (`open_session`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from resnext.errors import MissingRequirement, UnknownName, UsageError, first_line
from resnext.findings import Finding
from resnext.machine.shared_libraries import load_problem
from resnext.machine.threads import thread_budget
from resnext.precision import LIVE, PRECISIONS, Precision

if TYPE_CHECKING:
    from resnext.artifact.files import Artifact
    from resnext.machine.cuda_driver import Driver
    from resnext.machine.machine import Machine
    from resnext.weights.spec import Weights

    from .session import Session

Device = Literal["auto", "cpu", "cuda"]
_BOTH: tuple[Literal["cpu", "cuda"], ...] = ("cpu", "cuda")


@dataclass(frozen=True)
class SessionOptions:
    """Options of all backends.

    Attributes:
        device: ``cpu``, ``cuda`` or ``auto`` (CUDA if the runtime can use it).
        threads: CPU threads of the whole session, whatever the runtime; None means the thread
            budget of this process (`resnext.machine.threads`).
        memory_format: ``nchw``, ``channels-last``, or ``auto``: the faster one in a short trial
            (for ``torch-folded``: channels-last).
        cuda_graph: replay a CUDA graph if the runtime can.
        precision: precision of weights and activations of a live model; artifacts ignore it.
        merge_groups: minimum input channels per group in a live model's convolutions; ``auto`` is
            the fastest in a short trial, None leaves the groups unchanged.
        streams: requests that may be in flight at once (`Session.streams`); they share the threads.
        url: the model to use, of a runtime that is ``served``.

    Raises:
        UsageError: less than one thread or stream.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    memory_format: Literal["auto", "nchw", "channels-last"] = "auto"
    cuda_graph: bool = True
    precision: Precision = "fp32"
    merge_groups: int | Literal["auto"] | None = None
    streams: int = 1
    url: str | None = None

    def __post_init__(self) -> None:
        for name, count in (("threads", self.threads), ("streams", self.streams)):
            if count is not None and count < 1:
                raise UsageError(f"`{name}` must be at least 1, not {count}")

    @property
    def thread_count(self) -> int:
        """`threads`, or the thread budget."""
        return thread_budget().count if self.threads is None else self.threads


class Door(Protocol):
    """The interface of the module ``door`` in each runtime's folder."""

    def open_session(self, subject: Any, options: SessionOptions, name: str) -> Session:
        """Open ``subject``: `Weights` for a live runtime, else an `Artifact`."""

    def available(
        self, name: str, device: Device, machine: Machine, *, prebuilt: bool
    ) -> Finding | None:
        """Why runtime ``name`` cannot run on ``device`` of ``machine``; unless ``prebuilt``, also
        why its engine or package cannot be built there. None if nothing is known against it.

        Raises:
            MissingRequirement: the same, from a library's check.
        """


@dataclass(frozen=True)
class Runtime:
    """One way to run the network.

    Attributes:
        name: as in ``--backend``.
        about: one line for ``--help``.
        module: folder under `resnext.runtimes`; its ``door`` opens sessions.
        package: required Python package.
        formats: what it runs, its native format first: ``weights`` for the live network, or kinds
            of artifacts (`resnext.artifact.kinds`).
        devices: devices that it can run on.
        precisions: precisions that it can run, at least on some machines.
        scheme: layout of a quantized graph's Q/DQ nodes that it can fuse.
        streams: how several requests are in flight: ``network``, in streams of one compiled
            network; ``sessions``, in parallel sessions; None, not at all.
        times_layers: whether its sessions report the time of each layer; on a CPU, if they run on
            one.
        served: a server runs the network, perhaps on another machine; ``NAME:URL`` says where.
    """

    name: str
    about: str
    module: str
    package: str
    formats: tuple[str, ...]
    devices: tuple[Literal["cpu", "cuda"], ...] = _BOTH
    precisions: tuple[Precision, ...] = tuple(PRECISIONS)
    scheme: Literal["trt", "ort", "openvino"] = "ort"
    streams: Literal["network", "sessions"] | None = None
    times_layers: bool = False
    served: bool = False

    @property
    def live(self) -> bool:
        """Whether it runs the live network from weights instead of artifacts."""
        return "weights" in self.formats

    @property
    def device(self) -> Device:
        """Its only device, or ``auto`` if it has several."""
        return self.devices[0] if len(self.devices) == 1 else "auto"


#: ONNX Runtime's optimizer breaks float8 graphs, whatever the provider.
_NOT_FP8: tuple[Precision, ...] = tuple(name for name in PRECISIONS if name != "fp8")
#: The CPU provider has no bfloat16 convolutions; the CUDA provider has no int8 ones either.
_ORT_CPU: tuple[Precision, ...] = ("fp32", "fp16", "int8")
_ORT_CUDA: tuple[Precision, ...] = ("fp32", "fp16")


def table(*runtimes: Runtime) -> Mapping[str, Runtime]:
    """``runtimes`` by name, in this order.

    Raises:
        ValueError: two have the same name.
    """
    named = {runtime.name: runtime for runtime in runtimes}
    if len(named) != len(runtimes):
        names = [runtime.name for runtime in runtimes]
        raise ValueError(f"two runtimes have one name: {', '.join(names)}")
    return MappingProxyType(named)


#: The runtime that defines what an ONNX file computes.
REFERENCE = "onnx-reference"
#: All runtimes by name.
RUNTIMES: Mapping[str, Runtime] = table(
    Runtime(
        "torch",
        "eager PyTorch",
        "pytorch",
        "torch",
        ("weights",),
        _BOTH,
        LIVE,
        times_layers=True,
    ),
    Runtime(
        "torch-folded",
        "eager PyTorch, batch norms folded, channels-last",
        "pytorch",
        "torch",
        ("weights",),
        _BOTH,
        LIVE,
        times_layers=True,
    ),
    Runtime(
        "torch-fused",
        "PyTorch with Triton kernels of our own: a block in three launches",
        "pytorch",
        "triton",
        ("weights",),
        ("cuda",),
        ("fp16", "bf16"),
    ),
    Runtime(
        "torch-compile",
        "torch.compile with Inductor",
        "pytorch",
        "torch",
        ("weights",),
        _BOTH,
        LIVE,
    ),
    Runtime(
        "ort",
        "ONNX Runtime on the best device that it has here",
        "ort",
        "onnxruntime",
        ("onnx",),
        _BOTH,
        _ORT_CPU,
        streams="sessions",
        times_layers=True,
    ),
    Runtime(
        "ort-cpu",
        "ONNX Runtime, CPU provider",
        "ort",
        "onnxruntime",
        ("onnx",),
        ("cpu",),
        _ORT_CPU,
        streams="sessions",
        times_layers=True,
    ),
    Runtime(
        "ort-cuda",
        "ONNX Runtime, CUDA provider",
        "ort",
        "onnxruntime",
        ("onnx",),
        ("cuda",),
        _ORT_CUDA,
        streams="sessions",
    ),
    Runtime(
        "ort-trt",
        "ONNX Runtime, TensorRT provider (TensorRT 10)",
        "ort",
        "onnxruntime",
        ("onnx",),
        ("cuda",),
        _NOT_FP8,
        scheme="trt",
        streams="sessions",
    ),
    Runtime(
        "ort-trt-rtx",
        "ONNX Runtime, TensorRT-RTX plugin provider",
        "ort",
        "onnxruntime",
        ("onnx",),
        ("cuda",),
        _NOT_FP8,
        scheme="trt",
        streams="sessions",
    ),
    Runtime(
        REFERENCE,
        "the reference evaluator: each node as ONNX defines it, on the CPU; slow",
        "onnx_reference",
        "onnxruntime",
        ("onnx",),
        ("cpu",),
    ),
    Runtime(
        "openvino",
        "OpenVINO on the CPU, from ONNX or from its own IR",
        "openvino",
        "openvino",
        ("onnx", "openvino"),
        ("cpu",),
        _NOT_FP8,
        scheme="openvino",
        streams="network",
        times_layers=True,
    ),
    Runtime(
        "trt",
        "TensorRT, or TensorRT-RTX if only that is installed",
        "trt",
        "torch",
        ("trt", "trt-rtx"),
        ("cuda",),
        scheme="trt",
        streams="sessions",
        times_layers=True,
    ),
    Runtime(
        "trt-rtx",
        "TensorRT-RTX",
        "trt",
        "torch",
        ("trt-rtx",),
        ("cuda",),
        scheme="trt",
        streams="sessions",
        times_layers=True,
    ),
    Runtime(
        "pt2",
        "a package that AOTInductor compiled ahead of time",
        "pt2",
        "torch",
        ("pt2",),
        _BOTH,
        ("fp32", "fp16"),
    ),
    Runtime(
        "v2",
        "a model on a server that speaks the V2 protocol (Triton, KServe, MLServer), at v2:URL",
        "v2",
        "numpy",
        ("onnx", "openvino", "trt", "trt-rtx", "pt2"),
        streams="network",
        served=True,
    ),
)
#: Names of the runtimes that run artifacts.
ARTIFACT_RUNTIMES: tuple[str, ...] = tuple(
    name for name, runtime in RUNTIMES.items() if not runtime.live
)
#: Names of the runtimes that run in this process: they can be built for and examined.
LOCAL_RUNTIMES: tuple[str, ...] = tuple(
    name for name, runtime in RUNTIMES.items() if not runtime.served
)
#: Names of those of them that run artifacts.
LOCAL_ARTIFACT_RUNTIMES: tuple[str, ...] = tuple(
    name for name in LOCAL_RUNTIMES if not RUNTIMES[name].live
)


def runtime_named(name: str) -> Runtime:
    """The runtime called ``name``, which may be ``NAME:URL`` if it is served.

    Raises:
        UnknownName: there is none; the message lists all and suggests the nearest.
    """
    if name in RUNTIMES:
        return RUNTIMES[name]
    runtime = RUNTIMES.get(name.partition(":")[0]) if url_in(name) else None
    if runtime is None or not runtime.served:
        raise UnknownName("backend", name, RUNTIMES)
    return runtime


def url_in(name: str) -> str:
    """The URL in ``NAME:URL``; "" if there is none."""
    return name.partition(":")[2]


def known(name: str, names: Iterable[str] = RUNTIMES) -> bool:
    """Whether ``name`` is one of ``names``, or a URL on a served runtime among them.

    Raises:
        UsageError: it is, but that is no URL of a model.
    """
    runtime = RUNTIMES.get(name.partition(":")[0])
    if runtime is None or not runtime.served or runtime.name not in tuple(names):
        return name in tuple(names)
    from .address import Address

    Address.parse(url_in(name))
    return True


def open_session(
    subject: Weights | Artifact, runtime: str, *, options: SessionOptions | None = None
) -> Session:
    """Open weights or an artifact on a runtime. `resnext.open_session` also takes a path, and
    chooses the runtime.

    Args:
        subject: weights for a live runtime, else an artifact.
        runtime: a key of `RUNTIMES`; a served one may have its URL: ``v2:http://HOST:PORT/MODEL``.
        options: device, threads, memory format, CUDA graphs, precision of a live network.

    Raises:
        UnknownName: no such runtime.
        UsageError: the runtime cannot run that subject, or not on the requested device.
        MissingRequirement: the machine lacks the device, or the environment the package.
    """
    from resnext.artifact.files import Artifact

    options = options or SessionOptions()
    entry = runtime_named(runtime)
    if url := url_in(runtime):
        options = replace(options, url=url)
    elif entry.served and options.url:
        runtime = f"{runtime}:{options.url}"
    if entry.live == isinstance(subject, Artifact):
        runs = {"weights": "weights", "onnx": "an ONNX artifact", "pt2": "a .pt2 package"}.get(
            entry.formats[0], "an engine"
        )
        raise UsageError(f"backend {runtime!r} runs {runs}")
    if isinstance(subject, Artifact):
        check_subject(runtime, subject)
    else:
        check_precision(runtime, options.precision)
    check_device(runtime, options.device)
    check_streams(runtime, options)
    door = load_door(runtime)
    if options.streams == 1 or entry.streams == "network":
        return door.open_session(subject, options, runtime)
    from .parallel import ParallelSession

    share = replace(options, threads=max(1, options.thread_count // options.streams), streams=1)
    with ExitStack() as stack:
        sessions = [
            stack.enter_context(door.open_session(subject, share, runtime))
            for _ in range(options.streams)
        ]
        stack.pop_all()
    return ParallelSession(sessions)


def check_precision(name: str, precision: Precision) -> None:
    """Check that runtime ``name`` can run ``precision``.

    Raises:
        UsageError: it never can; the hint names the runtimes that can.
    """
    own = runtime_named(name).precisions
    if precision not in own:
        able = [other for other, runtime in RUNTIMES.items() if precision in runtime.precisions]
        raise UsageError(
            f"backend {name!r} does not run {precision}",
            hint=f"use `backend` {', '.join(able)}, or `precision` {', '.join(own)}",
        )


def check_device(name: str, device: Device) -> None:
    """Check that runtime ``name`` can run on ``device``, whether or not this machine has it.

    Raises:
        UsageError: it never runs there.
    """
    runtime = runtime_named(name)
    if runtime.device != "auto" and device not in ("auto", runtime.device):
        raise UsageError(
            f"backend {name!r} runs on {runtime.device} only", hint=f"drop `device` {device}"
        )


def check_streams(name: str, options: SessionOptions) -> None:
    """Check that runtime ``name`` can have the requested number of requests in flight.

    Raises:
        UsageError: it runs one at a time, or on a CPU there are fewer threads than streams.
    """
    if options.streams == 1:
        return
    runtime = runtime_named(name)
    if runtime.served:  # its threads are the server's
        return
    if runtime.streams is None:
        able = [other for other, runtime in RUNTIMES.items() if runtime.streams]
        why = " (PyTorch's settings belong to the whole process)" * (
            runtime.module in ("pytorch", "pt2")
        )
        raise UsageError(
            f"backend {name!r} runs one request at a time{why}",
            hint=f"use `streams` 1, or `backend` {', '.join(able)}",
        )
    if runs_on_cpu(name, options.device) and options.streams > options.thread_count:
        raise UsageError(
            f"{options.streams} streams need {options.streams} CPU threads, and there are"
            f" {options.thread_count}",
            hint=f"use at most `streams` {options.thread_count}, or more `threads`",
        )


def runs_on_cpu(name: str, device: Device = "auto") -> bool:
    """Whether runtime ``name`` runs on the CPU here if ``device`` is requested."""
    from resnext.machine.machine import this_machine

    runtime = runtime_named(name)
    device = device if runtime.device == "auto" else runtime.device
    return device == "cpu" or (device == "auto" and this_machine().driver.problem is not None)


def natural_runtime(artifact: Artifact) -> str:
    """The runtime that runs ``artifact`` if none is named: its own, and ``ort`` for an ONNX file
    if that can.
    """
    manifest = artifact.manifest
    if manifest.kind != "onnx":
        return manifest.kind
    return "ort" if manifest.precision in RUNTIMES["ort"].precisions else "openvino"


def check_subject(name: str, subject: Artifact) -> None:
    """Check that runtime ``name`` runs artifacts of the kind and precision of ``subject``.

    Raises:
        UsageError: it never can; the hint names a runtime that can.
    """
    runtime, kind = runtime_named(name), subject.manifest.kind
    if kind in runtime.formats:
        check_precision(name, subject.manifest.precision)
        return
    other = ""
    if name == "pt2":
        other = "; a package is exported from the weights, with `format` pt2"
    elif kind == "onnx":
        other = f"; build an engine of it: `format` {name}, `onnx` {subject.directory}"
    raise UsageError(
        f"backend {name!r} runs artifacts of kind {runtime.formats[0]}, and {subject.directory} is"
        f" of kind {kind}",
        hint=f"use `backend` {'ort' if kind == 'onnx' else kind}{other}",
    )


def load_door(name: str) -> Door:
    """Import the door of runtime ``name``.

    Raises:
        UnknownName: no such runtime.
        MissingRequirement: its package is not installed, or does not load.
    """
    try:
        door: Any = import_module(f"resnext.runtimes.{runtime_named(name).module}.door")
    except (ImportError, OSError) as exc:
        problem = import_problem(name, exc)
        raise MissingRequirement(problem.message, hint=problem.hint) from exc
    typed: Door = door
    return typed


def no_package(name: str, package: str) -> Finding:
    """The finding for a Python package that runtime ``name`` needs and that is not installed."""
    message = f"backend {name!r} needs the Python package {package}"
    return Finding("not-installed", message, f"pip install {package}")


def import_problem(name: str, error: ImportError | OSError) -> Finding:
    """The finding for a failed import of what runtime ``name`` needs: missing, or broken."""
    if isinstance(error, ModuleNotFoundError):
        return no_package(name, str(error.name))
    message = f"backend {name!r} is installed but does not load: {first_line(error)}"
    known = load_problem(error)
    return Finding("broken-package", message, known.hint if known else "install its package again")


def require_cuda(driver: Driver | None = None) -> None:
    """Check that there is a CUDA driver with a device, through the driver alone.

    Args:
        driver: the driver's answer; None asks it.

    Raises:
        MissingRequirement: one of the two is missing; the hint says what works here.
    """
    from resnext.machine.machine import this_machine

    driver = driver or this_machine().driver
    if driver.problem is not None:
        raise MissingRequirement(
            f"no CUDA device: {driver.problem}",
            hint="on this machine use `device` cpu, or `backend` ort-cpu, torch or torch-compile",
        )
