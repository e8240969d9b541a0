"""The reference evaluator as a session, like every other runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.artifact.graph import onnx_graph
from resnext.artifact.identity import different_facts, refuse_different
from resnext.artifact.specs import TensorSpec
from resnext.runtimes.ort.profile import layers_from_profile, modules_by_output, profiled_run
from resnext.runtimes.registry import SessionOptions
from resnext.runtimes.session import Arrays, Bound, Delivered, Session

from .evaluator import Evaluator


class ReferenceSession(Session):
    """An ONNX artifact, evaluated node by node on the CPU.

    Args:
        artifact: the ONNX file.
        options: threads.
        backend: name of the runtime.

    Raises:
        BadArtifact: ONNX Runtime cannot read it, or it does not agree with its manifest.
    """

    def __init__(self, artifact: Artifact, options: SessionOptions, backend: str) -> None:
        manifest = artifact.manifest
        super().__init__(backend, manifest.batch_ranges)
        if manifest.quantized:
            self._hides_nan = "quantization"
        proto = onnx_graph(artifact)
        metadata = {entry.key: entry.value for entry in proto.metadata_props}
        refuse_different(artifact, different_facts(manifest, metadata.get))
        self.inputs = manifest.inputs
        # float32 represents bfloat16 logits exactly.
        self.outputs = tuple(_float32(spec) for spec in manifest.outputs)
        self._modules = modules_by_output(proto)
        self._evaluator = Evaluator(proto, options)

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Evaluate all nodes once."""
        self.check_inputs(inputs)
        return {self.outputs[0].name: self.evaluate(inputs[self.inputs[0].name])}

    def evaluate(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Logits of images that are already checked."""
        wide = images.astype(np.float32) if self.inputs[0].dtype == "bfloat16" else images
        return self._evaluator(wide, rows=len(wide))  # one batch, as on any runtime

    def _bind(self, inputs: Arrays) -> Bound:
        return ReferenceBound(self, inputs[self.inputs[0].name].copy())

    def delivered(self) -> Delivered:
        """All nodes with the element type of their computation: float32 if the graph says bfloat16,
        with separate nodes for rounding.
        """
        specs = tuple(_float32(spec) if spec.dtype == "bfloat16" else spec for spec in self.inputs)
        session, events = profiled_run(
            self._evaluator.options(),
            self._evaluator.open,
            specs,
            batch=1,
            backend=self.backend,
        )
        notes = {
            "providers": ", ".join(session.get_providers()),
            "threads": str(self._evaluator.options().intra_op_num_threads),
        }
        return Delivered("cpu", layers_from_profile(events, self._modules), notes)


class ReferenceBound(Bound):
    """An input and its logits.

    Args:
        session: computes the logits.
        images: the input; must not be changed.
    """

    def __init__(self, session: ReferenceSession, images: NDArray[Any]) -> None:
        super().__init__(session.backend)
        self._session, self._images = session, images
        self._logits = session.evaluate(images)

    def _launch(self) -> None:
        self._logits = self._session.evaluate(self._images)

    def _outputs(self) -> dict[str, NDArray[Any]]:
        return {self._session.outputs[0].name: self._logits.copy()}

    def _drop(self) -> None:
        self._images = self._logits = np.empty(0, np.float32)


def _float32(spec: TensorSpec) -> TensorSpec:
    return spec.model_copy(update={"dtype": "float32"})
