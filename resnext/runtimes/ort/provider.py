"""The part of an ONNX Runtime session that depends on the execution provider.

`OrtSession` is the same for all providers and contains one of them. Concrete providers do not
inherit from each other.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import onnxruntime as ort
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.artifact.graph import onnx_bytes
from resnext.artifact.specs import TensorSpec
from resnext.errors import BadArtifact, SilentFallback, first_line
from resnext.machine.faults import environment_fault
from resnext.machine.threads import physical_cores
from resnext.runtimes.registry import SessionOptions
from resnext.runtimes.session import Arrays, Bound, Delivered, LayerTime


class Provider(ABC):
    """One artifact on one execution provider.

    Args:
        artifact: the ONNX file.
        options: threads, and whether to use CUDA graphs.
        backend: name of the runtime, for messages.

    Attributes:
        name: ONNX Runtime's name of the provider.
        device: device of the provider.
    """

    name: str
    device: Literal["cpu", "cuda"]

    def __init__(self, artifact: Artifact, options: SessionOptions, backend: str) -> None:
        self.artifact, self.options, self.backend = artifact, options, backend

    @abstractmethod
    def open(self) -> Any:
        """An ``onnxruntime.InferenceSession`` for host runs.

        Raises:
            BadArtifact: ONNX Runtime cannot read the file.
            SilentFallback: it did not use the provider for every node.
        """

    @abstractmethod
    def bind(self, native: Any, inputs: Arrays, outputs: tuple[TensorSpec, ...]) -> Bound:
        """Copy ``inputs`` into dedicated buffers, and run once.

        Args:
            native: the session from `open`, for providers that need no separate session here.
            inputs: checked host arrays.
            outputs: specs of the network's outputs.
        """

    @abstractmethod
    def delivered(self, inputs: tuple[TensorSpec, ...]) -> Delivered:
        """All nodes with provider and element type, from a profiled run of a new session."""

    def layer_times(
        self, inputs: Arrays, runs: int, before_each: Callable[[], object]
    ) -> tuple[LayerTime, ...] | None:
        """`Session.layer_times`; None if a profile of this provider does not tell: on a GPU, ONNX
        Runtime times the launches.
        """
        del inputs, runs, before_each
        return None

    def closed(self) -> None:  # noqa: B027  # not abstract: most leave nothing
        """Called when the session has been released."""

    def checked(self, outputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """``outputs``, after a check that this provider needs.

        Raises:
            SessionFailed: they contain NaN or infinity.
        """
        return outputs


def session_options(options: SessionOptions) -> ort.SessionOptions:
    """ONNX Runtime's options: ``options``, all graph optimizations, and errors as the only log."""
    native = ort.SessionOptions()
    native.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    native.log_severity_level = 3
    native.intra_op_num_threads = threads = options.thread_count
    cores = physical_cores()
    if 1 < threads == len(cores):
        # As ONNX Runtime does by itself if it may choose the number of threads: each of its own
        # threads on one core, beginning with the second, since the caller's is the first. It counts
        # CPUs from 1.
        native.add_session_config_entry(
            "session.intra_op_thread_affinities",
            ";".join(",".join(str(cpu + 1) for cpu in sorted(core)) for core in cores[1:]),
        )
    return native


def load(
    artifact: Artifact,
    native: ort.SessionOptions,
    name: str,
    settings: dict[str, str] | None = None,
    *,
    backend: str,
) -> Any:
    """An ``onnxruntime.InferenceSession`` on provider ``name`` alone.

    Raises:
        BadArtifact: ONNX Runtime cannot read the file.
        SilentFallback: it did not use the provider for every node.
    """
    path, data = artifact.path, onnx_bytes(artifact)
    provider = name if settings is None else (name, settings)
    try:
        session = ort.InferenceSession(data, native, providers=[provider], enable_fallback=0)
    except Exception as exc:  # onnxruntime's errors have no common base
        text = first_line(exc)
        if "fallback" in text.lower():
            raise SilentFallback(
                f"{backend}: {name} does not take every node of {path.name} ({text})"
            ) from exc
        if newer := re.search(r"IR version: (\d+), max supported IR version: (\d+)", text):
            raise BadArtifact(
                f"{path} has IR version {newer[1]}, and ONNX Runtime {ort.__version__} reads"
                f" {newer[2]} at most",
                hint="install a newer release, or write the file for an older one",
            ) from exc
        raise environment_fault(exc) or BadArtifact(
            f"ONNX Runtime cannot load {path}: {text}"
        ) from exc
    actual = session.get_providers()[0]
    if actual != name:
        raise SilentFallback(
            f"ONNX Runtime fell back from {name} to {actual}: its CUDA libraries (cuBLAS, cuDNN of"
            " the version it was built for) are not found",
            hint="pip install 'onnxruntime-gpu[cuda,cudnn]'",
        )
    return session


#: Makes a session from an ``onnxruntime.SessionOptions``.
Open = Callable[[ort.SessionOptions], Any]
