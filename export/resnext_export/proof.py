"""Proof that written bytes compute what PyTorch computes: what to expect, and the comparison."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.artifact.manifest import BatchRange, CheckRecord
from resnext.errors import GateFailed
from resnext.images.synthetic import seeded_pixels
from resnext.precision import NUMERICS
from resnext.runtimes import onnx_reference
from resnext.runtimes.buffers import torch_dtype
from resnext.runtimes.registry import SessionOptions, open_session
from resnext.runtimes.session import Session
from resnext.verify.parity import compare, discriminates, gate_for
from resnext.weights.spec import Weights

#: Batch sizes at which the written bytes must agree with PyTorch; 7 fits no vector width, so
#: padding faults show.
CHECK_BATCHES = (1, 7)
#: Different images at most; a larger batch repeats them. A prime, so that rows that are shifted by
#: any usual size show.
DIFFERENT = 13


@dataclass(frozen=True)
class Expected:
    """What PyTorch gives for the images of the check.

    Attributes:
        batches: batch sizes to compare at.
        pixels: N x H x W x C, uint8; a larger batch repeats them.
        images: the same, preprocessed, N x C x H x W.
        reference: logits, N x classes, eager float32.
        baseline: logits of eager PyTorch at the artifact's precision; None for fp32, where it is
            the reference, and for quantized networks, which PyTorch does not run.
    """

    batches: tuple[int, ...]
    pixels: NDArray[np.uint8]
    images: NDArray[np.float32]
    reference: NDArray[Any]
    baseline: NDArray[Any] | None


def expect(
    weights: Weights,
    batch: BatchRange,
    numerics: str,
    batches: tuple[int, ...] | None = None,
    parent: Artifact | None = None,
    pixels: NDArray[np.uint8] | None = None,
) -> Expected:
    """Run eager PyTorch on seeded images, or on the ones given.

    The reference is float32, a third of float64's time; the gate is far above what float32 loses,
    and ``resnext-parity`` compares with float64.

    Args:
        weights: the network.
        batch: sizes that the artifact takes.
        numerics: what to compare at, as `Manifest.numerics` has it.
        batches: sizes to compare at; None means both ends of ``batch``, as near to CHECK_BATCHES as
            it allows.
        parent: ONNX artifact of a quantized network, whose own loss is the baseline then.
        pixels: images to compare, N x H x W x C; None means seeded ones.

    Raises:
        GateFailed: the logits are not finite, or hardly differ from image to image, so nothing
            could be proven.
    """
    import torch

    from resnext.verify.reference import kept_reference_logits

    low, high = batch.min, batch.max
    batches = batches or tuple(
        sorted(
            {
                max(low, size) if high is None else min(max(low, size), high)
                for size in CHECK_BATCHES
            }
        )
    )
    # More images than the batch where that is small, so that one can tell whether the network tells
    # images apart.
    if not (given := pixels is not None):
        pixels = seeded_pixels(weights.config, min(max(*batches, *CHECK_BATCHES), DIFFERENT))
    images = weights.preprocessing.normalise(pixels)
    reference = kept_reference_logits(weights, images, torch.float32)
    if not np.isfinite(reference).all():
        raise GateFailed(
            "PyTorch itself gives NaN or infinite logits for these weights; --no-check exports them"
            " unproven"
        )
    if not discriminates(reference):
        if given:
            raise GateFailed(
                "the network gives nearly the same logits for every calibration image, so a"
                " comparison would prove nothing; are the images all alike? --no-check exports"
                " unproven"
            )
        raise GateFailed(
            "the network gives nearly the same logits for every test image, so a comparison would"
            " prove nothing; are the weights trained? --no-check exports them unproven"
        )
    # What PyTorch itself loses at a lower precision is the sharper yardstick; float32 loses next to
    # nothing.
    dtype = NUMERICS[numerics].eager_dtype
    baseline = (
        kept_reference_logits(weights, images, torch_dtype(dtype)).astype(np.float64)
        if dtype not in (None, "float32")
        else None
    )
    if parent is not None and parent.manifest.quantization is not None:
        inputs: NDArray[Any] = pixels if parent.manifest.preprocessing_baked else images
        baseline = onnx_reference.emulated_logits(parent, inputs).astype(np.float64)
    return Expected(batches, pixels, images, reference, baseline)


def prove(artifact: Artifact, expected: Expected, backend: str = "ort-cpu") -> CheckRecord:
    """Load the artifact's bytes from disk, run them on ``backend``, and compare with what eager
    PyTorch gives.

    An ONNX file of a precision that ONNX Runtime's CPU provider does not run is computed node by
    node.

    Raises:
        GateFailed: they do not agree; the message gives batch and reasons.
    """
    manifest = artifact.manifest
    gate = gate_for(manifest.numerics)
    worst, ratios = 0.0, []
    if manifest.kind == "onnx" and manifest.precision in onnx_reference.NEEDED:
        backend = onnx_reference.NAME
    with ExitStack() as stack:
        if backend == onnx_reference.NAME:
            run = partial(onnx_reference.emulated_logits, artifact)
        else:
            run = partial(
                _run, stack.enter_context(open_session(backend, artifact, SessionOptions()))
            )
        inputs: NDArray[Any] = expected.pixels if manifest.preprocessing_baked else expected.images
        for size in expected.batches:
            rows = np.arange(-(-len(inputs) // size) * size) % len(inputs)
            logits = np.concatenate([run(inputs[some]) for some in rows.reshape(-1, size)])
            outcome = compare(
                expected.reference[rows],
                logits,
                gate=gate,
                baseline=None if expected.baseline is None else expected.baseline[rows],
                artifact_sha256=manifest.file_sha256,
            )
            if not outcome.passed:
                raise GateFailed(
                    f"the exported file does not compute what PyTorch computes, batch {size}: "
                    f"{'; '.join(outcome.failures)}. Nothing was written"
                )
            assert outcome.max_error is not None
            worst = max(worst, outcome.max_error)
            ratios += [] if outcome.error_ratio is None else [outcome.error_ratio]
    return CheckRecord(
        batches=expected.batches,
        backend=backend,
        max_error=worst,
        tolerance=gate.max_error,
        error_ratio=max(ratios, default=None),
    )


def _run(session: Session, inputs: NDArray[Any]) -> NDArray[np.float32]:
    logits = session.run({session.inputs[0].name: session.inputs[0].given(inputs)})[
        session.outputs[0].name
    ]
    return logits.astype(np.float32, copy=False)
