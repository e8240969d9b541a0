"""The comparison with PyTorch: the reference, and the baseline of each precision, computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnext.errors import GateFailed
from resnext.images.adversarial import adversarial_inputs
from resnext.precision import NUMERICS

from .adversarial import compare_adversarial
from .parity import Parity, compare, discriminates, gate_for, gate_of

if TYPE_CHECKING:
    from resnext.artifact.files import Artifact
    from resnext.artifact.manifest import Manifest
    from resnext.weights.spec import Weights


class Reference:
    """PyTorch's logits for a set of images, and the comparison with them. Every image is computed
    once at each precision.

    Args:
        weights: the network.
        pixels: N x H x W x C, uint8.
        name: what they are, for `Parity.inputs`.

    Attributes:
        weights: the network.
        pixels: the images.
        images: the same, preprocessed: N x C x H x W, float32.
        adversarial: one input of each adversarial kind, row N and following.
    """

    def __init__(self, weights: Weights, pixels: NDArray[np.uint8], name: str = "seeded") -> None:
        self.weights = weights
        self.pixels = pixels
        self.name = name
        self.images = weights.preprocessing.normalize(pixels)
        self.adversarial = adversarial_inputs(weights.config, weights.preprocessing)
        self._logits: dict[str, dict[int, NDArray[Any]]] = {}

    def inputs(self, manifest: Manifest | None) -> NDArray[Any]:
        """The images as an artifact takes them, or a live model if ``manifest`` is None."""
        return self.pixels if _baked(manifest) else self.images

    def adversarial_inputs(self, manifest: Manifest | None) -> NDArray[Any]:
        """The adversarial inputs that an artifact takes, or a live model if ``manifest`` is
        None.
        """
        return self.adversarial.inputs(baked=_baked(manifest))

    def logits(self, dtype: str = "float64", rows: Sequence[int] | None = None) -> NDArray[Any]:
        """Eager PyTorch's logits on the CPU, N x classes.

        Args:
            dtype: element type of weights and arithmetic.
            rows: which images; None means all ordinary ones.

        Returns:
            N x classes, of ``dtype``; float32 for bfloat16.
        """
        import torch

        from .eager import cached_reference_logits

        def compute(missing: list[int]) -> NDArray[Any]:
            return cached_reference_logits(
                self.weights,
                _chosen(missing, self.images, self.adversarial.images),
                getattr(torch, dtype),
            )

        return self._once(dtype, rows, compute)

    def baseline(
        self,
        numerics: str,
        *,
        against: str = "float64",
        graph: Artifact | None = None,
        rows: Sequence[int] | None = None,
    ) -> NDArray[np.float64] | None:
        """Logits whose error is the cost of the precision itself: the best that it can give.

        Eager PyTorch at that precision; for a quantized network the file itself, as the reference
        evaluator computes it.

        Args:
            numerics: the candidate's, as in `Manifest.numerics`.
            against: element type of the reference that the comparison is with.
            graph: ONNX artifact of a quantized network.
            rows: which images; None means all.

        Returns:
            N x classes; None if the baseline would be the reference itself, or nothing shows the
            cost of the precision.
        """
        dtype = NUMERICS[numerics].eager_dtype
        if dtype is not None:
            return None if dtype == against else self.logits(dtype, rows).astype(np.float64)
        if graph is None:
            return None

        def compute(missing: list[int]) -> NDArray[Any]:
            from resnext.runtimes.onnx_reference.evaluator import emulated_logits

            return emulated_logits(
                graph,
                _chosen(
                    missing, self.inputs(graph.manifest), self.adversarial_inputs(graph.manifest)
                ),
            )

        return self._once(graph.manifest.file_sha256, rows, compute).astype(np.float64)

    def parity(
        self,
        logits: NDArray[Any],
        numerics: str,
        artifact: Artifact | None = None,
        *,
        dtype: str,
        against: str = "float64",
        graph: Artifact | None = None,
        rows: Sequence[int] | None = None,
        adversarial: NDArray[Any] | None = None,
        gate: str = "default",
    ) -> Parity:
        """Compare a candidate's logits with PyTorch's, at the limits of its precision.

        Args:
            logits: the candidate's, N x classes.
            numerics: the candidate's, as in `Manifest.numerics`.
            artifact: the candidate's artifact; None for a live model.
            dtype: element type that they must have.
            against: element type of the reference.
            graph: ONNX artifact of a quantized network, for the baseline.
            rows: which images they are for; None means all ordinary ones.
            adversarial: its logits for `adversarial_inputs`, or None.
            gate: a preset's name.

        Raises:
            UnknownName: no such preset.
        """
        manifest = None if artifact is None else artifact.manifest
        limits = gate_for(numerics, gate) if manifest is None else gate_of(manifest, preset=gate)
        outcome = compare(
            self.logits(against, rows),
            logits,
            gate=limits,
            baseline=self.baseline(numerics, against=against, graph=graph, rows=rows),
            dtype=dtype,
            artifact_sha256=None if manifest is None else manifest.file_sha256,
            images=self.name,
        )
        if adversarial is None:
            return outcome
        first = len(self.pixels)
        at = range(first, first + len(self.adversarial_inputs(manifest)))
        return outcome.with_inputs(
            *compare_adversarial(
                self.adversarial.names[: len(at)],
                self.logits(against, at),
                adversarial,
                gate=limits,
                baseline=self.baseline(numerics, against=against, graph=graph, rows=at),
                loss=outcome.loss,
                saturates=NUMERICS[numerics].calibrated,
            )
        )

    def refuse_if_useless(self, dtype: str, *, images: str = "test image", hint: str = "") -> None:
        """Check that a comparison with ``dtype``'s logits can prove something.

        Args:
            dtype: element type of the reference.
            images: name of an image in the message.
            hint: what to do.

        Raises:
            GateFailed: the logits are NaN or infinite, or hardly differ from image to image.
        """
        logits = self.logits(dtype)
        if not np.isfinite(logits).all():
            raise GateFailed(
                "PyTorch itself gives NaN or infinite logits for these weights, so a comparison"
                " would prove nothing",
                hint=hint,
            )
        if not discriminates(logits):
            raise GateFailed(
                f"the network gives nearly the same logits for every {images}, so a comparison"
                " would prove nothing",
                hint=hint or "are the weights trained?",
            )

    def _once(
        self,
        kind: str,
        rows: Sequence[int] | None,
        compute: Callable[[list[int]], NDArray[Any]],
    ) -> NDArray[Any]:
        rows = range(len(self.pixels)) if rows is None else rows
        logits = self._logits.setdefault(kind, {})
        if missing := [row for row in dict.fromkeys(rows) if row not in logits]:
            logits.update(zip(missing, compute(missing), strict=True))
        return np.stack([logits[row] for row in rows])


def _baked(manifest: Manifest | None) -> bool:
    return manifest is not None and manifest.preprocessing_baked


def _chosen(rows: Sequence[int], ordinary: NDArray[Any], adversarial: NDArray[Any]) -> NDArray[Any]:
    """``rows`` of both, one after the other."""
    count = len(ordinary)
    return np.stack([ordinary[row] if row < count else adversarial[row - count] for row in rows])
