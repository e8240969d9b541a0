"""Proof that written bytes compute what PyTorch computes, or the ONNX file from elsewhere that they
were made from: what to expect, and the comparison.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.artifact.manifest import BatchRange, CheckRecord, Manifest
from resnext.errors import GateFailed
from resnext.images.adversarial import Adversarial
from resnext.images.synthetic import seeded_pixels
from resnext.precision import DEFAULT, NUMERICS
from resnext.runtimes.registry import open_session
from resnext.verify.adversarial import compare_adversarial
from resnext.verify.batches.integrity import integrity_beside_parity
from resnext.verify.check import batched, logits_dtype, trusted_runtime, whole
from resnext.verify.file_reference import ROWS_HINT, FileReference
from resnext.verify.held.artifact import check_graph, refuse_other_weights
from resnext.verify.parity import compare, gate_for, images_to_compare
from resnext.verify.reference import Reference
from resnext.verify.subject import Network

#: Batch sizes at which the written bytes must agree with PyTorch; 7 fits no vector width, so
#: padding faults show.
CHECK_BATCHES = (1, 7)
#: Different images at most, unless they have few logits; a larger batch repeats them. A prime, so
#: that rows that are shifted by any usual size show.
DIFFERENT = 13


@dataclass(frozen=True)
class Expected:
    """What PyTorch gives for the images of the check.

    Attributes:
        weights: the network, or the ONNX file from elsewhere that is compared with itself.
        batches: batch sizes to compare at.
        pixels: N x H x W x C, uint8; a larger batch repeats them.
        images: the same, preprocessed, N x C x H x W.
        reference: logits, N x classes, eager float64.
        baseline: logits of eager PyTorch at the artifact's precision, or those of a quantized
            network's parent; None for a quantized network without one.
        adversarial: adversarial inputs, and their logits.
    """

    weights: Network
    batches: tuple[int, ...]
    pixels: NDArray[np.uint8]
    images: NDArray[Any]
    reference: NDArray[Any]
    baseline: NDArray[Any] | None
    adversarial: ExpectedAdversarial

    @property
    def title(self) -> str:
        """What computed the reference, in messages."""
        return "the ONNX file" if isinstance(self.weights, Artifact) else "PyTorch"


@dataclass(frozen=True)
class ExpectedAdversarial:
    """What PyTorch gives for adversarial inputs.

    Attributes:
        inputs: one of each kind.
        reference: logits, N x classes, eager float64.
        baseline: as that of `Expected`.
    """

    inputs: Adversarial
    reference: NDArray[Any]
    baseline: NDArray[Any] | None


def expect(
    network: Network,
    batch: BatchRange,
    numerics: str,
    batches: tuple[int, ...] | None = None,
    parent: Artifact | None = None,
    pixels: NDArray[np.uint8] | None = None,
) -> Expected:
    """Run eager PyTorch on seeded images, or on ``pixels``, and on adversarial inputs.

    The reference is float64 for float32 files too: their gate is a small multiple of what float32
    itself loses. ``resnext-parity`` and the benchmark find the logits in the cache.

    Args:
        network: the weights; an ONNX file from elsewhere is computed itself, node by node.
        batch: sizes that the artifact takes.
        numerics: what to compare at, as `Manifest.numerics` has it.
        batches: sizes to compare at; None means both ends of ``batch``, as near to CHECK_BATCHES as
            it allows.
        parent: ONNX artifact of a quantized network: what it loses by itself is the baseline.
        pixels: images to compare, N x H x W x C; None means seeded ones.

    Raises:
        GateFailed: the logits are not finite, or hardly differ from image to image, so nothing
            could be proven.
        UsageError: the reference evaluator lacks an operator of an ONNX file.
    """
    batches = batches or _batches(batch)
    if isinstance(network, Artifact):
        return _expected_of_file(network, numerics, batches)
    # More images than a small batch, to see whether the network tells images apart.
    if seeded := pixels is None:
        count = min(max(*batches, *CHECK_BATCHES), DIFFERENT)
        count = images_to_compare(count, network.config.num_classes)
        pixels = seeded_pixels(network.config, count)
    reference = Reference(network, pixels)
    reference.refuse_if_useless(
        "float64",
        images="test image" if seeded else "calibration image",
        hint=f"{'are the weights trained' if seeded else 'are the images all alike'}? Turn `check`"
        " off to export unproven",
    )
    beyond = range(len(pixels), len(pixels) + len(reference.adversarial.images))
    return Expected(
        network,
        batches,
        pixels,
        reference.images,
        reference.logits(),
        reference.baseline(numerics, graph=parent),
        ExpectedAdversarial(
            reference.adversarial,
            reference.logits(rows=beyond),
            reference.baseline(numerics, graph=parent, rows=beyond),
        ),
    )


def _expected_of_file(original: Artifact, numerics: str, batches: tuple[int, ...]) -> Expected:
    """Compute an ONNX file from elsewhere in float64, on seeded and on adversarial inputs."""
    manifest = original.manifest
    classes = manifest.outputs[0].shape[1] or 1
    count = images_to_compare(min(max(*batches, *CHECK_BATCHES), DIFFERENT), classes)
    reference = FileReference.seeded(original, count)
    reference.refuse_if_useless(
        "float64", hint="is the network trained? Turn `check` off to export unproven"
    )
    extreme = reference.adversarial_inputs(manifest)
    beyond = range(count, count + len(extreme))
    none = np.empty((0, 0, 0, 0), np.uint8)
    return Expected(
        original,
        batches,
        none,
        reference.inputs(manifest),
        reference.logits(),
        reference.baseline(numerics),
        ExpectedAdversarial(
            Adversarial(tuple(reference.kinds), none, extreme),
            reference.logits(rows=beyond),
            reference.baseline(numerics, rows=beyond),
        ),
    )


def _batches(batch: BatchRange) -> tuple[int, ...]:
    """Both ends of ``batch``, as near to `CHECK_BATCHES` as it allows."""
    low, high = batch.min, batch.max
    return tuple(
        sorted(
            {
                max(low, size) if high is None else min(max(low, size), high)
                for size in CHECK_BATCHES
            }
        )
    )


def prove(
    artifact: Artifact, expected: Expected, backend: str = "ort-cpu", *, exported: bool = True
) -> CheckRecord:
    """Load the artifact's bytes from disk, run them on ``backend``, and compare with what eager
    PyTorch gives, and the rows of some batches with each other; then hold graph and stored weights
    against the network.

    The reference evaluator computes an ONNX file of a precision that ``backend`` does not run.

    Args:
        artifact: the written file.
        expected: what PyTorch gives.
        backend: a name of the registry.
        exported: the manifest says all that was done to the graph; False for one that was changed
            for an engine builder alone, which no artifact holds.

    Raises:
        GateFailed: they do not agree, or the rows of a batch depend on each other; the message
            gives batch and reasons.
        BadArtifact: the graph is not that of the network.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        # On another thread while the runtime loads the file, which takes as long.
        held = pool.submit(_hold, artifact, expected.weights) if exported else None
        record = _compared(artifact, expected, backend)
        if held is not None:
            held.result()
    return record


def _hold(artifact: Artifact, network: Network) -> None:
    """Hold graph and stored weights against the network."""
    if isinstance(network, Artifact):
        check_graph(artifact)
    else:
        refuse_other_weights(artifact, network)


def _hint(manifest: Manifest, size: int) -> str:
    """What to do about a file that computes something else in batches of ``size``."""
    if manifest.foreign:
        return ROWS_HINT if size > 1 else ""
    if manifest.precision == DEFAULT:
        return ""
    return (
        "if it is the precision's own loss, turn `check` off to export it all the same; `bisect` of"
        " the parity command finds the blocks that it loses by, and mends it"
    )


def _compared(artifact: Artifact, expected: Expected, backend: str) -> CheckRecord:
    """What the file computes, compared with what eager PyTorch gives; rows, with each other."""
    manifest, adversarial = artifact.manifest, expected.adversarial
    gate = gate_for(manifest.numerics)
    backend = trusted_runtime(artifact, backend)
    inputs: NDArray[Any] = expected.pixels if manifest.preprocessing_baked else expected.images
    extreme = adversarial.inputs.inputs(baked=manifest.preprocessing_baked)
    count = len(extreme)
    worst, ratios, compared = 0.0, [], {}
    with open_session(artifact, backend) as run:
        for size in expected.batches:
            rows = whole(len(inputs), size)
            compared[size] = batched(run, inputs[rows], size)
            outcome = compare(
                expected.reference[rows],
                compared[size],
                gate=gate,
                baseline=None if expected.baseline is None else expected.baseline[rows],
                dtype=logits_dtype(artifact, backend),
                artifact_sha256=manifest.file_sha256,
            )
            if outcome.failures:
                differs = f"the exported file does not compute what PyTorch computes, batch {size}"
                differs = differs.replace("PyTorch", expected.title)
                raise GateFailed(
                    f"{differs}: {'; '.join(outcome.failures)}. Nothing was written",
                    hint=_hint(manifest, size),
                )
            assert outcome.max_error is not None
            worst = max(worst, outcome.max_error)
            ratios += [] if outcome.error_ratio is None else [outcome.error_ratio]
        integrity, logits = integrity_beside_parity(run, manifest, inputs, compared, extreme)
    if logits is None:
        raise GateFailed(
            "the rows of a batch are not independent in the exported file:"
            f" {'; '.join(integrity.failures)}. Nothing was written"
        )
    _, failures = compare_adversarial(
        adversarial.inputs.names[:count],
        adversarial.reference[:count],
        logits,
        gate=gate,
        baseline=None if adversarial.baseline is None else adversarial.baseline[:count],
        loss=outcome.loss,
        saturates=NUMERICS[manifest.numerics].calibrated and not manifest.foreign,
        lossy=manifest.foreign,
    )
    if failures:
        raise GateFailed(
            f"the exported file does not compute what {expected.title} computes on adversarial"
            f" inputs: {'; '.join(failures)}. Nothing was written"
        )
    return CheckRecord(
        batches=expected.batches,
        backend=backend,
        max_error=worst,
        tolerance=outcome.inputs[0].allowed,
        error_ratio=max(ratios, default=None),
    )
