"""The comparison with an ONNX file itself, computed in float64, node by node.

It proves that a runtime, or a file made from it, computes what the file says. Whether the file is
the trained network, it cannot tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.foreign import UNKNOWN
from resnext.errors import UsageError
from resnext.images.adversarial import adversarial_inputs
from resnext.images.synthetic import seeded_pixels
from resnext.precision import DEFAULT

from .inputs import SCALES, Feed, frame_of
from .parity import discriminates
from .reference import Comparison, chosen

if TYPE_CHECKING:
    from resnext.artifact.files import Artifact
    from resnext.artifact.manifest import Manifest


#: What else may be wrong with a file from elsewhere that fails.
ROWS_HINT = (
    "if the file's rows depend on each other, no reference fits them: check its parity with"
    " `batch_integrity`; else, is the network trained?"
)
#: What a comparison of one of our own files with itself leaves open.
_WEIGHTS_UNKNOWN = (
    "the file is its own reference: whether it has the network's weights is not compared"
)


class FileReference(Comparison):
    """An ONNX file's logits in float64, and the comparison with them.

    Args:
        artifact: the ONNX file.
        inputs: images, as the file takes them; float32 for any floating-point type.
        adversarial: kinds of adversarial inputs, and one of each.
        name: what the images are, for `Parity.inputs`.

    Raises:
        UsageError: it is no ONNX file, or has an operator that the reference evaluator lacks.
        BadArtifact: the file is not what its manifest says.
    """

    title = "the file in float64"

    def __init__(
        self,
        artifact: Artifact,
        inputs: NDArray[Any],
        adversarial: tuple[Sequence[str], NDArray[Any]],
        name: str = "seeded",
    ) -> None:
        from resnext.artifact.graph import onnx_graph
        from resnext.runtimes.onnx_reference.float64 import Float64Evaluator

        manifest = artifact.manifest
        if manifest.kind != "onnx":
            raise UsageError(
                f"{artifact.path} is of kind {manifest.kind}, and only an ONNX file can be computed"
                " node by node",
                hint="compare with PyTorch: `reference` torch",
            )
        kinds, self._extreme = adversarial
        super().__init__(len(inputs), kinds, name)
        self.config = manifest.config
        self.classes = int(manifest.outputs[0].shape[1] or 0)
        self.quantized = manifest.quantized
        self.unknown = UNKNOWN if manifest.foreign else _WEIGHTS_UNKNOWN
        self._artifact, self._images = artifact, inputs
        self._evaluate = Float64Evaluator(onnx_graph(artifact))

    @classmethod
    def seeded(cls, artifact: Artifact, count: int, seed: int = 0) -> FileReference:
        """The comparison on seeded images."""
        return cls.of_pixels(artifact, seeded_pixels(frame_of(artifact.manifest), count, seed))

    @classmethod
    def of_pixels(
        cls, artifact: Artifact, pixels: NDArray[np.uint8], name: str = "seeded"
    ) -> FileReference:
        """The comparison on pictures.

        If nobody said what range of numbers the file takes, it is the first usual one whose logits
        differ from image to image.

        Args:
            artifact: the ONNX file.
            pixels: N x H x W x C.
            name: what they are.
        """
        manifest = artifact.manifest
        if manifest.preprocessing is not None:
            made = adversarial_inputs(frame_of(manifest), manifest.prepared)
            if manifest.preprocessing_baked:
                return cls(artifact, pixels, (made.names, made.pixels), name)
            images = manifest.prepared.normalize(pixels)
            return cls(artifact, images, (made.names, made.images), name)
        tried: list[FileReference] = []
        for scale in SCALES:
            feed = Feed.of(manifest.inputs[0], scale)
            shown = f"{name}, {scale}" if tried else name
            made_of = cls(artifact, feed.taken(pixels), feed.adversarial(), shown)
            logits = made_of.logits()
            if feed.pixels or (np.isfinite(logits).all() and discriminates(logits)):
                return made_of
            tried.append(made_of)
        return tried[0]

    def inputs(self, manifest: Manifest | None) -> NDArray[Any]:  # noqa: ARG002
        """The images, which the file and everything made from it take alike."""
        return self._images

    def adversarial_inputs(self, manifest: Manifest | None) -> NDArray[Any]:  # noqa: ARG002
        """The adversarial inputs."""
        return self._extreme

    def baseline(
        self,
        numerics: str,
        *,
        against: str = "float64",  # noqa: ARG002
        graph: Artifact | None = None,
        rows: Sequence[int] | None = None,
    ) -> NDArray[np.float64] | None:
        """The file in its own precision, node by node, or the one that was made from it.

        ONNX Runtime computes that in float32. Its CPU kernels round no half precision, and the
        steps of a quantized file are part of the reference itself, so that these are computed in
        float64, rounded to half after each node, and without the steps.
        """
        source = graph or self._artifact
        if source.manifest.numerics != numerics:
            return None
        if numerics == DEFAULT:
            return self.emulated(source, rows)

        def compute(missing: list[int]) -> NDArray[Any]:
            from resnext.artifact.graph import onnx_graph
            from resnext.runtimes.onnx_reference.float64 import Float64Evaluator

            evaluate = Float64Evaluator(onnx_graph(source), cost=True)
            spec = source.manifest.inputs[0]
            return evaluate(spec.cast(chosen(missing, self._images, self._extreme)))

        return self._once(f"cost of {source.manifest.file_sha256}", rows, compute)

    def reference(self, dtype: str) -> str:  # noqa: ARG002
        """``onnx``."""
        return "onnx"

    def _compute(self, dtype: str, rows: list[int]) -> NDArray[Any]:
        """The file's logits in float64."""
        if dtype != "float64":
            raise UsageError(f"a file is its own reference in float64 alone, not in {dtype}")
        spec = self._artifact.manifest.inputs[0]
        return self._evaluate(spec.cast(chosen(rows, self._images, self._extreme)))
