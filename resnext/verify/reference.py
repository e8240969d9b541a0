"""The comparison with a reference: its logits and the baseline of each precision, computed once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
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
    from resnext.images.preprocessing import Preprocessing, PreprocessingSource
    from resnext.network.config import ResNeXtConfig
    from resnext.weights.spec import Weights


class Comparison(ABC):
    """The reference's logits for a set of images, and the comparison with them. Every image is
    computed once at each precision.

    Args:
        count: number of ordinary images.
        kinds: of adversarial inputs, in order; an artifact may take the first of them only.
        name: what the images are, for `Parity.inputs`.

    Attributes:
        config: the network; None if it is not known.
        classes: number of logits.
        preprocessing: of the network; None if nobody said.
        preprocessing_source: who said so.
        count, kinds, name: as above.
    """

    #: What computes the logits, in messages.
    title: str
    #: The reference saturates as a quantized file does, since it is one.
    quantized = False
    #: What the comparison cannot tell.
    unknown = ""
    config: ResNeXtConfig | None
    classes: int
    preprocessing: Preprocessing | None = None
    preprocessing_source: PreprocessingSource | None = None

    def __init__(self, count: int, kinds: Sequence[str], name: str) -> None:
        self.count, self.name, self.kinds = count, name, kinds
        self._logits: dict[str, dict[int, NDArray[Any]]] = {}

    @abstractmethod
    def inputs(self, manifest: Manifest | None) -> NDArray[Any]:
        """The images as an artifact takes them, or a live model if ``manifest`` is None."""

    @abstractmethod
    def adversarial_inputs(self, manifest: Manifest | None) -> NDArray[Any]:
        """The adversarial inputs that an artifact takes, or a live model if ``manifest`` is
        None.
        """

    @abstractmethod
    def baseline(
        self,
        numerics: str,
        *,
        against: str = "float64",
        graph: Artifact | None = None,
        rows: Sequence[int] | None = None,
    ) -> NDArray[np.float64] | None:
        """Logits whose error is the cost of the precision itself: the best that it can give.

        Args:
            numerics: the candidate's, as in `Manifest.numerics`.
            against: element type of the reference that the comparison is with.
            graph: ONNX artifact of a quantized network.
            rows: which images; None means all.

        Returns:
            N x classes; None if the baseline would be the reference itself, or nothing shows the
            cost of the precision.
        """

    @abstractmethod
    def reference(self, dtype: str) -> str:
        """Name of the reference of ``dtype``, as `resnext.verify.check.check` takes it."""

    @abstractmethod
    def _compute(self, dtype: str, rows: list[int]) -> NDArray[Any]:
        """Logits of some images, with weights and arithmetic of ``dtype``."""

    def logits(self, dtype: str = "float64", rows: Sequence[int] | None = None) -> NDArray[Any]:
        """The reference's logits, N x classes.

        Args:
            dtype: element type of weights and arithmetic.
            rows: which images; None means all ordinary ones.

        Returns:
            N x classes, of ``dtype``; float32 for bfloat16.
        """
        return self._once(dtype, rows, partial(self._compute, dtype))

    def emulated(self, graph: Artifact, rows: Sequence[int] | None) -> NDArray[np.float64]:
        """Logits of an ONNX file in its own precision, node by node."""

        def compute(missing: list[int]) -> NDArray[Any]:
            from resnext.runtimes.onnx_reference.evaluator import emulated_logits

            of = graph.manifest
            return emulated_logits(
                graph, chosen(missing, self.inputs(of), self.adversarial_inputs(of))
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
        """Compare a candidate's logits with the reference's, at the limits of its precision.

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
            return outcome.of(self.reference(against), self.unknown)
        first = self.count
        at = range(first, first + len(self.adversarial_inputs(manifest)))
        return outcome.with_inputs(
            *compare_adversarial(
                self.kinds[: len(at)],
                self.logits(against, at),
                adversarial,
                gate=limits,
                baseline=self.baseline(numerics, against=against, graph=graph, rows=at),
                loss=outcome.loss,
                saturates=NUMERICS[numerics].calibrated and not self.quantized,
                lossy=self.config is None,
            )
        ).of(self.reference(against), self.unknown)

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
                f"{self.title} itself gives NaN or infinite logits for these weights, so a"
                " comparison would prove nothing",
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
        rows = range(self.count) if rows is None else rows
        logits = self._logits.setdefault(kind, {})
        if missing := [row for row in dict.fromkeys(rows) if row not in logits]:
            logits.update(zip(missing, compute(missing), strict=True))
        return np.stack([logits[row] for row in rows])


class Reference(Comparison):
    """PyTorch's logits for a set of images, and the comparison with them.

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

    title = "PyTorch"

    def __init__(self, weights: Weights, pixels: NDArray[np.uint8], name: str = "seeded") -> None:
        self.weights, self.config = weights, weights.config
        self.classes = weights.config.num_classes
        self.preprocessing = weights.preprocessing
        self.preprocessing_source = weights.preprocessing_source
        self.pixels = pixels
        self.images = weights.preprocessing.normalize(pixels)
        self.adversarial = adversarial_inputs(weights.config, weights.preprocessing)
        super().__init__(len(pixels), self.adversarial.names, name)

    def inputs(self, manifest: Manifest | None) -> NDArray[Any]:
        """The images as an artifact takes them, or a live model if ``manifest`` is None."""
        return self.pixels if _baked(manifest) else self.images

    def adversarial_inputs(self, manifest: Manifest | None) -> NDArray[Any]:
        """The adversarial inputs that an artifact takes, or a live model if ``manifest`` is
        None.
        """
        return self.adversarial.inputs(baked=_baked(manifest))

    def baseline(
        self,
        numerics: str,
        *,
        against: str = "float64",
        graph: Artifact | None = None,
        rows: Sequence[int] | None = None,
    ) -> NDArray[np.float64] | None:
        """Eager PyTorch at that precision; for a quantized network the file itself, as the
        reference evaluator computes it.
        """
        dtype = NUMERICS[numerics].eager_dtype
        if dtype is not None:
            return None if dtype == against else self.logits(dtype, rows).astype(np.float64)
        return None if graph is None else self.emulated(graph, rows)

    def reference(self, dtype: str) -> str:
        """``torch``, or ``torch-fp32``."""
        return "torch" if dtype == "float64" else "torch-fp32"

    def _compute(self, dtype: str, rows: list[int]) -> NDArray[Any]:
        """Eager PyTorch's logits on the CPU."""
        import torch

        from .eager import cached_reference_logits

        images = chosen(rows, self.images, self.adversarial.images)
        return cached_reference_logits(self.weights, images, getattr(torch, dtype))


def _baked(manifest: Manifest | None) -> bool:
    return manifest is not None and manifest.preprocessing_baked


def chosen(rows: Sequence[int], ordinary: NDArray[Any], adversarial: NDArray[Any]) -> NDArray[Any]:
    """``rows`` of both, one after the other."""
    count = len(ordinary)
    return np.stack([ordinary[row] if row < count else adversarial[row - count] for row in rows])
