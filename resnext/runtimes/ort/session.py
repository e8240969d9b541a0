"""An ONNX file on ONNX Runtime, with any provider."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from resnext.artifact.identity import different_facts, different_tensors, refuse_different
from resnext.artifact.specs import TensorSpec
from resnext.errors import ResnextError, SessionFailed, UsageError, first_line
from resnext.machine.faults import environment_fault
from resnext.runtimes.session import Arrays, Bound, Delivered, LayerTime, Session

from .provider import Provider

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


class OrtSession(Session):
    """An ONNX file on one provider.

    A captured CUDA graph has fixed addresses and one shape, so a bound input may have its own
    native session. `run` always uses the plain one, with copies in and out, and does not affect
    bound inputs.

    Args:
        provider: opens the file.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider, self._artifact = provider, provider.artifact
        super().__init__(provider.backend, self._artifact.manifest.batch_ranges)
        if self._artifact.manifest.quantized:
            self._hides_nan = "quantization"
        self._native = provider.open()
        self.inputs = tuple(_spec(value) for value in self._native.get_inputs())
        self.outputs = tuple(_spec(value) for value in self._native.get_outputs())
        self._names = [spec.name for spec in self.outputs]
        self._check_manifest()

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """One call of ONNX Runtime's run."""
        self.check_inputs(inputs)
        try:
            results = self._native.run(self._names, inputs)
        except Exception as exc:
            raise environment_fault(exc) or SessionFailed(
                f"{self.backend} failed: {first_line(exc)}"
            ) from exc
        return self._provider.checked(dict(zip(self._names, results, strict=True)))

    def _bind(self, inputs: Arrays) -> Bound:
        try:
            return self._provider.bind(self._native, inputs, self.outputs)
        except ResnextError:
            raise
        except Exception as exc:  # onnxruntime's errors have no common base
            raise environment_fault(exc) or SessionFailed(
                f"{self.backend} failed: {first_line(exc)}"
            ) from exc

    def delivered(self) -> Delivered:
        """All nodes of the optimized graph with provider and element type, from a profiled run."""
        return self._provider.delivered(self.inputs)

    def layer_times(
        self, inputs: Arrays, runs: int, before_each: Callable[[], object] = lambda: None
    ) -> tuple[LayerTime, ...]:
        """From ONNX Runtime's profile, in a new session; on a CPU only."""
        self.check_inputs(inputs)
        times = self._provider.layer_times(inputs, runs, before_each)
        return super().layer_times(inputs, runs) if times is None else times

    def close(self) -> None:
        """Release the session and all bound inputs."""
        super().close()
        self._native = None
        self._provider.closed()

    def _check_manifest(self) -> None:
        """Compare the manifest with the file; only the file's bytes are under a digest.

        Raises:
            BadArtifact: they differ; names the fields.
        """
        manifest = self._artifact.manifest
        metadata = self._native.get_modelmeta().custom_metadata_map
        different = different_facts(manifest, metadata.get)
        different += different_tensors(manifest, self.inputs, self.outputs)
        refuse_different(self._artifact, different)


def _spec(value: Any) -> TensorSpec:
    if value.type not in _DTYPES:  # for example bfloat16
        raise UsageError(
            f"{value.name!r} is a {value.type}, which ONNX Runtime cannot convert from or to an"
            " array",
            hint="export the artifact without `io` native",
        )
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return TensorSpec(name=value.name, dtype=_DTYPES[value.type], shape=shape)


# onnxruntime may have been imported before `resnext` set ORT_DISABLE_TELEMETRY.
ort.disable_telemetry_events()
