"""AOTInductor packages (.pt2): compiled code and weights in one file, run without the model's Python source."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..artifact import Artifact
from ..delivered import delivered_from_package
from ..errors import BadArtifact, BadInput, SessionFailed, UsageError
from ..package_file import check_manifest, read_package
from ..package_record import PackageRecord, refuse_if_not_loadable, this_host
from ..session import Arrays, Boundary, Delivered, Session
from . import SessionOptions
from .device_memory import CudaMemory, DeviceMemory, Replay
from .torch_session import Translated


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
        found = delivered_from_package(self._record, self._memory.device)
        if self._record.device == "cpu":
            more = {"threads": str(torch.get_num_threads())}
        else:
            more = {"cuda graph": "nothing bound" if self._bound is None else "on" if self._replay else "off"}
        return replace(found, notes={**found.notes, **more})

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
