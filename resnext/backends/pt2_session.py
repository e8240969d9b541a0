"""AOTInductor packages (.pt2): compiled code and weights in one file, run without the model's Python source.

A package is code for one kind of machine. Nothing in PyTorch refuses it on another: where a processor lacks the
instructions that it was compiled for, PyTorch warns at most, and the process dies of SIGILL. So what a package hangs
on is written into it, and asked before it is loaded.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..artifact import Artifact
from ..batch_range import BatchRange
from ..config import Precision
from ..errors import BadArtifact, BadInput, MissingRequirement, SessionFailed, UsageError
from ..session import Arrays, Boundary, Delivered, DeliveredLayer, Session, TensorSpec
from ..trt_flavour import this_platform
from . import SessionOptions
from .device_memory import CudaMemory, DeviceMemory, Replay
from .torch_session import Translated

#: The record's name among the package's extra files.
RECORD_NAME = "resnext.json"
_EXTRA, _CODE = "extra/", "data/aotinductor/model/"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PackageLayer(_Strict):
    """One convolution or the classifier, as the compiler was given it.

    Attributes:
        module: parameter prefix, for example ``layer1.0.conv2``.
        op: ``Conv`` or ``Gemm``.
        dtype: element type of its result; its weights have the same.
    """

    module: str
    op: Literal["Conv", "Gemm"]
    dtype: str


class PackageRecord(_Strict):
    """What a package says of itself: what it computes, and what it needs of a machine.

    Attributes:
        torch: version of PyTorch that compiled it.
        cuda: version of CUDA that this PyTorch was built for, or None.
        device: what it runs on.
        platform: operating system and processor, as ``linux-x86_64``.
        cpu_capability: PyTorch's name of the processor's vector instructions, for example ``AVX512``.
        cpu_flags: features of the processor that its code may use, by the kernel's names; empty where not known.
        gpu: name of the GPU that it was compiled on, or None.
        compute_capability: of that GPU, as ``9.0``, or None.
        precision: of weights and activations.
        batch: batch sizes that it takes.
        inputs: of the compiled function.
        outputs: likewise.
        frozen: whether weights were constants to the compiler, which then laid them out for its kernels.
        layers: convolutions and classifier, in the graph that the compiler was given.
        kernels: library kernels that the compiled code calls for them, each with how often.
    """

    torch: str
    cuda: str | None
    device: Literal["cpu", "cuda"]
    platform: str
    cpu_capability: str
    cpu_flags: tuple[str, ...]
    gpu: str | None = None
    compute_capability: str | None = None
    precision: Precision
    batch: BatchRange
    inputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=1)
    frozen: bool
    layers: tuple[PackageLayer, ...]
    kernels: dict[str, int]


@dataclass(frozen=True)
class Host:
    """What a package meets.

    Attributes:
        torch: version of PyTorch.
        cuda: version of CUDA that it was built for, or None.
        platform: as ``linux-x86_64``.
        cpu_capability: PyTorch's name of the processor's vector instructions.
        cpu_flags: features of the processor, by the kernel's names; empty where the system does not tell.
        compute_capability: of the first GPU, as ``9.0``, or None where PyTorch can use none.
    """

    torch: str
    cuda: str | None
    platform: str
    cpu_capability: str
    cpu_flags: frozenset[str]
    compute_capability: str | None


def this_host() -> Host:
    """What a package meets here."""
    capability = None
    if torch.cuda.is_available():
        capability = "{}.{}".format(*torch.cuda.get_device_capability())
    return Host(
        torch=str(torch.__version__),
        cuda=torch.version.cuda,
        platform=this_platform(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        cpu_flags=cpu_flags(),
        compute_capability=capability,
    )


@lru_cache(maxsize=1)
def cpu_flags() -> frozenset[str]:
    """Features of this machine's processor, by the Linux kernel's names; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    found = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(found.partition(":")[2].split())


def obstacles(record: PackageRecord, host: Host) -> tuple[str, ...]:
    """Why ``host`` cannot run the package; empty where nothing is known against it.

    PyTorch promises no more than that a package runs on the version that compiled it.
    """
    found = []
    if _public(record.torch) != _public(host.torch):
        found.append(f"it was compiled by PyTorch {record.torch}, installed is {host.torch}")
    if record.platform != host.platform:
        found.append(f"it was compiled on {record.platform}, this is {host.platform}")
    elif lacking := sorted(set(record.cpu_flags) - host.cpu_flags) if host.cpu_flags else []:
        found.append(f"its code may use {', '.join(lacking)}, which this processor lacks")
    elif not (record.cpu_flags and host.cpu_flags) and record.cpu_capability != host.cpu_capability:
        found.append(f"it was compiled for {record.cpu_capability}, this processor has {host.cpu_capability}")
    if record.device == "cuda":
        found += _gpu_obstacles(record, host)
    return tuple(found)


def _gpu_obstacles(record: PackageRecord, host: Host) -> list[str]:
    if host.compute_capability is None:
        return ["it runs on a CUDA device, and PyTorch can use none here"]
    found = []
    if host.compute_capability != record.compute_capability:
        found.append(f"it was compiled for compute capability {record.compute_capability} ({record.gpu}), "
                     f"this GPU has {host.compute_capability}")  # fmt: skip
    if (record.cuda or "").partition(".")[0] != (host.cuda or "").partition(".")[0]:
        found.append(f"it was compiled for CUDA {record.cuda}, this PyTorch is for CUDA {host.cuda}")
    return found


def refuse_if_not_loadable(record: PackageRecord, host: Host) -> None:
    """Check that ``host`` can run the package.

    Raises:
        MissingRequirement: with every reason, and what to do.
    """
    if reasons := obstacles(record, host):
        raise MissingRequirement(
            f"this machine cannot load the package: {'; '.join(reasons)}. To do: export it again on this machine "
            f"(--format pt2), or run it where it was made for: PyTorch {_public(record.torch)}, {record.platform}"
        )


def _public(version: str) -> str:
    """A version without the build that is named after ``+``: CPU and CUDA builds are of the same source."""
    return version.partition("+")[0]


@dataclass(frozen=True)
class Package:
    """What can be read of a package without loading its code.

    Attributes:
        record: the package's own.
        metadata: AOTInductor's, with what the exporter added.
    """

    record: PackageRecord
    metadata: dict[str, str]


def read_package(path: Path) -> Package:
    """Read record and metadata of the package at ``path``; none of its code is loaded or run.

    Raises:
        BadArtifact: it is no package of this toolkit, or damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # Every name lies under one folder, called after the file that was first written.
            names = {name.partition("/")[2]: name for name in archive.namelist()}
            record = PackageRecord.model_validate_json(archive.read(names[_EXTRA + RECORD_NAME]))
            noted = next(name for name in names if name.startswith(_CODE) and name.endswith("_metadata.json"))
            metadata = {str(key): str(value) for key, value in json.loads(archive.read(names[noted])).items()}
    except (OSError, zipfile.BadZipFile) as exc:
        raise BadArtifact(f"{path} is no readable .pt2 package: {exc}; export it again") from exc
    except (KeyError, StopIteration) as exc:
        raise BadArtifact(f"{path} is no package that resnext-export wrote: it says nothing of itself") from exc
    except (ValidationError, ValueError, AttributeError) as exc:
        raise BadArtifact(f"{path} has a record that this version cannot read; export it again") from exc
    return Package(record, metadata)


def open_session(subject: Artifact, options: SessionOptions, name: str) -> Pt2Session:
    """Open a package.

    Raises:
        UsageError: it runs on another device than was asked for.
        BadArtifact: it is damaged, or it and its manifest do not agree.
        MissingRequirement: it was compiled for another machine or PyTorch; says for which.
    """
    package = read_package(subject.path)
    record = package.record
    check_manifest(subject, package)
    if options.device not in ("auto", record.device):
        raise UsageError(
            f"{subject.path} was compiled for {record.device}; drop --device {options.device}, or export it for that"
        )
    refuse_if_not_loadable(record, this_host())
    if record.device == "cuda":
        # float32 means float32: TF32 would be a precision that nobody asked for.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    return Pt2Session(subject, options, name, record, CudaMemory() if record.device == "cuda" else HostMemory())


def check_manifest(artifact: Artifact, package: Package) -> None:
    """The manifest must say what the file says; only the file's bytes are under a digest.

    Raises:
        BadArtifact: names what differs.
    """
    manifest, record = artifact.manifest, package.record
    declared = {
        "preprocessing": manifest.preprocessing.model_dump_json(),
        "preprocessing_baked": json.dumps(manifest.preprocessing_baked),
        "class_names": json.dumps(list(manifest.class_names)),
        "weights_sha256": manifest.weights.sha256,
    }
    differ = [key for key, value in declared.items() if package.metadata.get(f"resnext.{key}") != value]
    for field in ("precision", "batch", "inputs", "outputs"):
        differ += [] if getattr(record, field) == getattr(manifest, field) else [field]
    if getattr(manifest, "package", None) not in (None, record):
        differ.append("package")
    if differ:
        raise BadArtifact(
            f"the manifest of {artifact.path} does not agree with the file on {', '.join(differ)}; "
            "one of them was altered: export the artifact again"
        )


class Pt2Session(Session):
    """A package on a CPU, or on CUDA with a stream of its own and a CUDA graph for the bound shape.

    Args:
        artifact: the package.
        options: threads, CUDA graphs or not.
        name: the backend's.
        record: the package's.
        memory: where tensors live.
    """

    def __init__(
        self, artifact: Artifact, options: SessionOptions, name: str, record: PackageRecord, memory: DeviceMemory
    ) -> None:
        self.backend = name
        self.inputs, self.outputs = record.inputs, record.outputs
        self._options, self._record, self._memory = options, record, memory
        if record.device == "cpu" and options.threads is not None:
            torch.set_num_threads(options.threads)
        self._bound: torch.Tensor | None = None
        self._result: torch.Tensor | None = None
        self._replay: Replay | None = None
        try:
            # Not torch._inductor.aoti_load_package: it test-compiles programs for seconds, only to warn (pytorch
            # #191715). Single-threaded means no synchronising of its own, which a CUDA graph could not capture.
            self._loader: Any = torch._C._aoti.AOTIModelPackageLoader(str(artifact.path), "model", True, 1, -1)
        except RuntimeError as exc:
            reason = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
            raise BadArtifact(f"PyTorch cannot load {artifact.path}: {reason}; export it again") from exc

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Copy in, run, copy out."""
        self._check(inputs)
        with Translated(self.backend), self._memory.current():
            return self._named(self._call(self._placed(inputs)))

    def bind(self, inputs: Arrays) -> None:
        """Place the input and run once; on CUDA, capture a CUDA graph where options ask for one.

        Raises:
            SessionFailed: the capture failed; ``cuda_graph=False`` goes without.
        """
        self._bound = self._result = self._replay = None  # a bind that fails must not leave what the last one gave
        self._check(inputs)
        with Translated(self.backend):
            bound = self._placed(inputs)
            replay, capture = None, self._record.device == "cuda" and self._options.cuda_graph
            for _ in range(3 if capture else 1):  # cuDNN chooses kernels in the first runs, which must not be captured
                self._launch(bound)
            self._memory.synchronize()
            if capture:
                replay = self._memory.capture(lambda: self._launch(bound))
                replay()
                self._memory.synchronize()
        self._bound, self._replay = bound, replay

    def enqueue(self) -> None:
        """Replay the graph, or run over the bound input."""
        if self._replay is not None:
            self._replay()
            return
        if self._bound is None:
            raise SessionFailed("nothing is bound; call bind() first")
        self._launch(self._bound)

    def synchronize(self) -> None:
        """Wait for the session's stream; a CPU has nothing pending."""
        with Translated(self.backend):
            self._memory.synchronize()

    def fetch(self) -> dict[str, NDArray[Any]]:
        """A copy of the last logits."""
        if self._bound is None or self._result is None:
            raise SessionFailed("nothing is bound; call bind() first")
        with Translated(self.backend):
            return self._named(self._result)

    def delivered(self) -> Delivered:
        """Element types as the compiler was given them, and which library kernels it then chose.

        Compiled code cannot be asked what it computes in; at fp16 on a CPU, kernels may well compute in float32.
        """
        device = self._memory.device
        layers = tuple(
            DeliveredLayer(layer.module, layer.op, layer.dtype, device, (layer.module,))
            for layer in self._record.layers
        )
        notes = {
            "layers from": "the graph that the compiler was given",
            "kernels": ", ".join(f"{count} {kernel}" for kernel, count in sorted(self._record.kernels.items())),
            "memory format": "channels-last",
            "frozen": "yes" if self._record.frozen else "no",
            "compiled by": f"PyTorch {self._record.torch}",
        }
        if self._record.device == "cpu":
            notes["threads"] = str(torch.get_num_threads())
        else:
            notes["cuda graph"] = "nothing bound" if self._bound is None else "on" if self._replay else "off"
        return Delivered(device, layers, notes)

    @property
    def enqueue_boundary(self) -> Boundary:
        """``host`` on a CPU; else ``graph`` where one was captured."""
        if self._record.device == "cpu":
            return "host"
        return "graph" if self._replay is not None else "device"

    @property
    def cuda_stream(self) -> int | None:
        """The session's own stream."""
        return self._memory.stream if self._record.device == "cuda" else None

    def close(self) -> None:
        """Drop graph, buffers and code."""
        self._replay = None
        self._bound = self._result = self._loader = None

    def _check(self, inputs: Arrays) -> None:
        self.check_inputs(inputs)
        batch = inputs[self.inputs[0].name].shape[0]
        if batch not in self._record.batch:
            raise BadInput(f"the package takes batches of {self._record.batch}, got {batch}")

    def _placed(self, inputs: Arrays) -> torch.Tensor:
        """The one input, in a fresh buffer: compiled code reads it by the strides that it was compiled for."""
        spec = self.inputs[0]
        target = self._memory.empty(inputs[spec.name].shape, spec.dtype)
        self._memory.load(target, inputs[spec.name])
        return target

    def _launch(self, images: torch.Tensor) -> None:
        with self._memory.current():
            self._result = self._call(images)

    def _call(self, images: torch.Tensor) -> torch.Tensor:
        if self._loader is None:
            raise SessionFailed(f"{self.backend}: the session is closed")
        result: torch.Tensor = self._loader.run([images])[0]
        return result

    def _named(self, result: torch.Tensor) -> dict[str, NDArray[Any]]:
        return {self.outputs[0].name: self._memory.fetch(result)}


class HostMemory(DeviceMemory):
    """The host's own memory, where nothing is ever pending."""

    stream = 0
    device = "cpu"

    def empty(self, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        """A tensor of rows one after the other."""
        wanted: torch.dtype = getattr(torch, dtype)
        return torch.empty(shape, dtype=wanted)

    def load(self, target: torch.Tensor, array: NDArray[Any]) -> None:
        """Copy."""
        target.numpy()[...] = array

    def fetch(self, source: torch.Tensor) -> NDArray[Any]:
        """Copy."""
        return np.array(source.numpy())

    def synchronize(self) -> None:
        """Nothing is pending."""

    def current(self) -> AbstractContextManager[Any]:
        """There is no stream."""
        return nullcontext()

    def capture(self, work: Callable[[], None]) -> Replay:  # noqa: ARG002  # the interface's
        """There is nothing to capture."""
        raise RuntimeError("a CPU has no CUDA graphs")
