"""What an ONNX Runtime session is made of: a provider, chosen once, that opens, binds and accounts.

`OrtSession` is the same for all of them; a provider is a value in it, and never a base class of
another one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import onnxruntime as ort
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.artifact.specs import TensorSpec
from resnext.errors import BadArtifact, SilentFallback, first_line
from resnext.runtimes.registry import SessionOptions
from resnext.runtimes.session import Arrays, Bound, Delivered


class Provider(ABC):
    """One artifact on one execution provider.

    Args:
        artifact: the ONNX file.
        options: threads, CUDA graphs or not.
        backend: name of the runtime, for messages.

    Attributes:
        name: ONNX Runtime's name of the provider.
        device: where it runs.
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
            SilentFallback: it did not use the provider, or not for every node.
        """

    @abstractmethod
    def bind(self, native: Any, inputs: Arrays, outputs: tuple[TensorSpec, ...]) -> Bound:
        """Copies of ``inputs`` in buffers of their own, after a first run.

        Args:
            native: what `open` gave, for a provider that needs no separate session here.
            inputs: checked host arrays.
            outputs: of the network.
        """

    @abstractmethod
    def delivered(self, inputs: tuple[TensorSpec, ...]) -> Delivered:
        """Every node with its provider and element type, from a profiled run of a new session."""

    def check_inputs(self, inputs: Arrays) -> None:  # noqa: B027  # not abstract: most take any batch
        """Check what only this provider limits.

        Raises:
            BadInput: with what was got and what is allowed.
        """

    def checked(self, outputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """``outputs``, as a caller may see them.

        Raises:
            SessionFailed: they are not numbers, and this provider is known for that.
        """
        return outputs


def session_options(options: SessionOptions) -> ort.SessionOptions:
    """ONNX Runtime's options for ``options``: all graph optimisations, warnings off, errors on."""
    native = ort.SessionOptions()
    native.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    native.log_severity_level = 3
    native.intra_op_num_threads = options.threads or 0
    return native


def load(
    path: Path,
    native: ort.SessionOptions,
    name: str,
    settings: dict[str, str] | None = None,
    *,
    backend: str,
) -> Any:
    """An ``onnxruntime.InferenceSession`` on provider ``name`` alone.

    Raises:
        BadArtifact: ONNX Runtime cannot read the file.
        SilentFallback: it did not use the provider, or not for every node.
    """
    provider = name if settings is None else (name, settings)
    try:
        session = ort.InferenceSession(str(path), native, providers=[provider], enable_fallback=0)
    except Exception as exc:  # onnxruntime's errors have no common base
        text = first_line(exc)
        if "fallback" in text.lower():
            raise SilentFallback(
                f"{backend}: {name} does not take every node of {path.name} ({text})"
            ) from exc
        raise BadArtifact(f"ONNX Runtime cannot load {path}: {text}") from exc
    actual = session.get_providers()[0]
    if actual != name:
        raise SilentFallback(
            f"ONNX Runtime fell back from {name} to {actual}: its CUDA libraries (cuBLAS, cuDNN of"
            " the version it was built for) are not found",
            hint="pip install 'onnxruntime-gpu[cuda,cudnn]'",
        )
    return session


#: What turns an ``onnxruntime.SessionOptions`` into a session.
Open = Callable[[ort.SessionOptions], Any]
