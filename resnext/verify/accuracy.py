"""Accuracy of a candidate and of its reference on labeled images; interrupted runs resume.

The reference is eager float32 PyTorch. `resnext.verify.logit_store` stores logits on disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from resnext.artifact.manifest import Manifest, Sha256
from resnext.artifact.specs import Strict
from resnext.errors import BadInput, SessionFailed, UsageError
from resnext.images.preprocessing import Preprocessing, PreprocessingSource
from resnext.images.sources import ImageSource
from resnext.machine.environment import Environment, record_environment
from resnext.machine.nvml import open_nvml
from resnext.progress import track
from resnext.runtimes.session import Session

from .logit_store import Track, logits_by_chunk, logits_key
from .margins import MARGINS as MARGINS
from .margins import Count, MarginBin, clopper_pearson, flips_by_margin

if TYPE_CHECKING:
    from resnext.weights.spec import Weights

Share = Annotated[float, Field(ge=0, le=1)]

_TOP = 5
#: Images of one chunk: half a minute of a large network on a CPU, and 150 MB of float32 at 224
#: pixels.
_CHUNK_IMAGES = 256
_DEFAULT_BATCH = 32


class Accuracy(Strict):
    """Accuracy of a candidate and of its reference on the same labeled images.

    Bounds are Clopper and Pearson's at 95 %, two-sided. An image for which the candidate gives NaN
    or infinity is wrong, and agrees with nothing.

    Attributes:
        source: name of the images.
        digest: `ImageSource.digest` of the images.
        images: number of images.
        backend: runtime of the candidate.
        artifact_sha256: digest of the file that ran, or None for a live model; the outcome holds
            for it alone.
        top1: share whose first class is the label.
        top1_low: its lower bound.
        top1_high: its upper bound.
        top5: share whose label is among the five first classes; None if there are fewer than six
            classes.
        top5_low: its lower bound.
        top5_high: its upper bound.
        reference_top1: ``top1`` of the reference.
        reference_top1_low: its lower bound.
        constant_top1: ``top1`` of always answering with the most frequent label.
        agreement: share for which candidate and reference have the same first class.
        agreement_low: its lower bound.
        flips: images for which they differ.
        flips_by_margin: flips binned by the reference's margin. Rounding flips only images on
            which the reference itself was unsure; a fault flips others as well.
        losing_flips: the reference is right and the candidate wrong.
        winning_flips: the candidate is right and the reference wrong.
        nonfinite: images for which the candidate gives NaN or infinity.
        preprocessing_source: who says how a picture becomes the input (`Manifest`); None in
            outcomes from before it was recorded.
    """

    source: str
    digest: Sha256
    images: Annotated[int, Field(ge=1)]
    backend: str
    artifact_sha256: Sha256 | None = None
    top1: Share
    top1_low: Share
    top1_high: Share
    top5: Share | None
    top5_low: Share | None
    top5_high: Share | None
    reference_top1: Share
    reference_top1_low: Share
    constant_top1: Share
    agreement: Share
    agreement_low: Share
    flips: Count
    flips_by_margin: tuple[MarginBin, ...]
    losing_flips: Count
    winning_flips: Count
    nonfinite: Count
    preprocessing_source: PreprocessingSource | None = None


def measure_accuracy(
    session: Session,
    source: ImageSource,
    reference: NDArray[Any],
    *,
    batch: int | None = None,
    baked: bool,
    preprocessing: Preprocessing,
    track: Track = track,
    resume: Path | None = None,
    artifact_sha256: str | None = None,
    environment: Environment | None = None,
) -> Accuracy:
    """Run every image of ``source`` through ``session``, and compare its answers with labels and
    reference.

    Args:
        session: the candidate.
        source: labeled images.
        reference: N x classes, the reference's logits for the same images, as
            `reference_logits_for` gives them.
        batch: images in one run; None means 32, or the nearest size that the session takes. The
            last batch is filled with copies, whose answers are dropped.
        baked: the session takes uint8 pixels and normalizes them itself.
        preprocessing: declared by the candidate.
        track: shows progress.
        resume: folder that stores the candidate's logits by chunk, to be reused; None stores
            nothing. Logits of another file, backend, device, batch, preprocessing, source or
            software version are never reused.
        artifact_sha256: digest of the file that runs; ``resume`` needs it.
        environment: machine and software, part of the key of stored logits; None records it
            now.

    Raises:
        UsageError: no labels, a reference of another length or not finite, a batch that the session
            does not accept, pixels made with another preprocessing, or ``resume`` for a live model.
        BadInput: a label that is no class of the network, or a picture that cannot be read.
        SessionFailed: the session failed, or returned logits of a wrong shape.
        MissingRequirement: ``resume`` cannot be written to.
    """
    _check_pixels(source, preprocessing)
    labels = _labels(source, reference)
    images_spec, logits_name = session.inputs[0], session.outputs[0].name
    batch = fitting_batch(session, batch)
    folder = None
    if resume is not None:
        if artifact_sha256 is None:
            raise UsageError("logits of a live model cannot be kept", hint="leave `resume` out")
        facts = {
            "artifact": artifact_sha256,
            "backend": session.backend,
            "session": type(session).__name__,
            "batch": batch,
            "baked": baked,
            "environment": _environment_facts(environment),
        }
        folder = resume / "candidate" / logits_key(facts, source, preprocessing)

    def compute(start: int, stop: int) -> NDArray[np.float32]:
        pixels = source.pixels(start, stop)
        parts = []
        for at in range(0, len(pixels), batch):
            some = pixels[at : at + batch]
            full = some[np.arange(batch) % len(some)]
            images = full if baked else images_spec.cast(preprocessing.normalize(full))
            logits = session.run({images_spec.name: images})[logits_name]
            if logits.shape != (batch, reference.shape[1]):
                raise SessionFailed(
                    f"logits have shape {logits.shape}, want {(batch, reference.shape[1])}"
                )
            parts.append(logits[: len(some)].astype(np.float32))
        return np.concatenate(parts)

    step = -(-_CHUNK_IMAGES // batch) * batch
    logits = logits_by_chunk(
        folder,
        len(source),
        step,
        reference.shape[1],
        compute,
        track,
        f"accuracy of {session.backend}",
    )
    return accuracy_from_logits(
        logits,
        reference,
        labels,
        source=source,
        backend=session.backend,
        artifact_sha256=artifact_sha256,
    )


def reference_logits_for(
    weights: Weights, source: ImageSource, folder: Path, *, track: Track = track
) -> NDArray[np.float32]:
    """Eager float32 PyTorch's logits for ``source``, N x classes: stored chunks from ``folder``,
    the rest computed now.

    Args:
        weights: the network.
        source: images, read with the weights' own preprocessing.
        folder: stores the logits by chunk; valid for these weights, images and preprocessing
            with this version of PyTorch only.
        track: shows progress.

    Raises:
        UsageError: ``source`` was made with another preprocessing.
        BadInput: a picture cannot be read.
        MissingRequirement: ``folder`` cannot be written to.
    """
    import torch

    from resnext.verify.eager import reference_logits

    _check_pixels(source, weights.preprocessing)
    key = logits_key(
        {"weights": weights.sha256, "torch": torch.__version__}, source, weights.preprocessing
    )

    def compute(start: int, stop: int) -> NDArray[np.float32]:
        images = weights.preprocessing.normalize(source.pixels(start, stop))
        return reference_logits(weights, images, torch.float32).astype(np.float32)

    return logits_by_chunk(
        folder / "reference" / key,
        len(source),
        _CHUNK_IMAGES,
        weights.config.num_classes,
        compute,
        track,
        "reference logits in PyTorch",
    )


def accuracy_failures(
    accuracy: Accuracy, *, max_top1_loss: float = 0.01, min_agreement: float = 0.98
) -> tuple[str, ...]:
    """Why ``accuracy`` is not good enough, one line each; empty if it is.

    A reference that is hardly better than a constant answer fails too: with wrong labels or images,
    reference and candidate are equally wrong, so their difference shows nothing.

    Args:
        accuracy: the outcome.
        max_top1_loss: largest allowed loss of top-1 against the reference.
        min_agreement: smallest share of images with the reference's top-1 class.
    """
    failures = []
    if accuracy.nonfinite:
        failures.append(
            f"{accuracy.nonfinite} of {accuracy.images} images give NaN or infinite logits"
        )
    if not accuracy.reference_top1_low > accuracy.constant_top1:
        failures.append(
            f"the reference itself is right on {accuracy.reference_top1:.2%} of {accuracy.images}"
            f" images (at least {accuracy.reference_top1_low:.2%}), no better than one answer for"
            f" all ({accuracy.constant_top1:.2%}): these labels, images or preprocessing are not"
            " this network's, or the images are too few"
        )
    # Counted, not subtracted: 0.96 - 0.95 is more than 0.01. Written so that a limit of NaN fails.
    loss = (accuracy.losing_flips - accuracy.winning_flips) / accuracy.images
    if not loss <= max_top1_loss:
        failures.append(
            f"top-1 {accuracy.top1:.2%} is {loss:.2%} under the reference's"
            f" {accuracy.reference_top1:.2%}, and may be {max_top1_loss:.2%}"
        )
    if not accuracy.agreement >= min_agreement:
        failures.append(
            f"first classes agree with the reference's on {accuracy.agreement:.2%} of"
            f" {accuracy.images} images, want {min_agreement:.2%}"
        )
    return tuple(failures)


def accuracy_from_logits(
    candidate: NDArray[Any],
    reference: NDArray[Any],
    labels: NDArray[np.int64],
    *,
    source: ImageSource,
    backend: str,
    artifact_sha256: str | None = None,
) -> Accuracy:
    """Judge logits, N x classes each.

    Raises:
        UsageError: the reference is NaN, infinite or all zero.
    """
    images, classes = reference.shape
    want = reference.astype(np.float64)
    rms = float(np.sqrt(np.mean(want**2)))
    if not np.isfinite(want).all() or rms == 0:
        raise UsageError("the reference itself is NaN, infinite or all zero; it can prove nothing")
    finite = np.isfinite(candidate).all(axis=1)
    # Stable, so that equal logits put classes in order: a constant output gets no label among its
    # first five for free.
    order = np.argsort(-np.where(finite[:, np.newaxis], candidate, 0), axis=1, kind="stable")[
        :, :_TOP
    ]
    order[~finite] = -1
    first, first_want = order[:, 0], want.argmax(axis=1)
    right, right_want, agreed = first == labels, first_want == labels, first == first_want
    top1, agreement, reference_top1 = (
        clopper_pearson(int(hits.sum()), images) for hits in (right, agreed, right_want)
    )
    top5_hits = int((order == labels[:, np.newaxis]).sum())
    top5 = clopper_pearson(top5_hits, images) if classes > _TOP else None
    return Accuracy(
        source=source.name,
        digest=source.digest,
        images=images,
        backend=backend,
        artifact_sha256=artifact_sha256,
        top1=float(right.mean()),
        top1_low=top1[0],
        top1_high=top1[1],
        top5=top5_hits / images if top5 else None,
        top5_low=top5[0] if top5 else None,
        top5_high=top5[1] if top5 else None,
        reference_top1=float(right_want.mean()),
        reference_top1_low=reference_top1[0],
        constant_top1=float(np.bincount(labels).max() / images),
        agreement=float(agreed.mean()),
        agreement_low=agreement[0],
        flips=int((~agreed).sum()),
        flips_by_margin=flips_by_margin(want / rms, ~agreed),
        losing_flips=int((right_want & ~right).sum()),
        winning_flips=int((right & ~right_want).sum()),
        nonfinite=int((~finite).sum()),
    )


def _check_pixels(source: ImageSource, preprocessing: Preprocessing) -> None:
    """Mean and standard deviation may differ: they may be the very fault of a candidate. The pixels
    must not.
    """
    apart = {"mean", "std"}
    if source.preprocessing.model_dump(exclude=apart) != preprocessing.model_dump(exclude=apart):
        raise UsageError(
            f"the images of {source.name} were read with another preprocessing; make the source"
            " with it"
        )


def _labels(source: ImageSource, reference: NDArray[Any]) -> NDArray[np.int64]:
    if source.labels is None:
        raise UsageError(
            f"{source.name} has no labels, so accuracy cannot be measured on it; give a labeled"
            " test set"
        )
    if reference.ndim != 2 or len(reference) != len(source):
        raise UsageError(
            f"the reference has shape {reference.shape}, want {len(source)} x classes for"
            f" {source.name}"
        )
    low, high = int(source.labels.min()), int(source.labels.max())
    if low < 0 or high >= reference.shape[1]:
        raise BadInput(
            f"{source.name} has labels {low} to {high}, and the network {reference.shape[1]}"
            " classes"
        )
    return source.labels


def fitting_batch(session: Session | Manifest, batch: int | None) -> int:
    """``batch``, or for None 32 or the nearest size that a session or an artifact takes.

    Raises:
        UsageError: it does not take ``batch``.
    """
    fixed, usual = session.inputs[0].shape[0], _DEFAULT_BATCH
    if batch is None:
        nearest = (max(it.min, min(usual, it.max or usual)) for it in session.batch_ranges)
        return fixed or min(nearest, key=lambda size: abs(size - usual), default=usual)
    if batch < 1 or batch != (fixed or batch) or not session.takes(batch):
        sizes = fixed or ", ".join(map(str, session.batch_ranges)) or "of at least 1"
        raise UsageError(f"the session takes batch {sizes}, not {batch}")
    return batch


def _environment_facts(environment: Environment | None) -> dict[str, Any]:
    """Machine and software, on which logits depend besides the artifact."""
    if environment is None:
        with open_nvml() as nvml:
            environment = record_environment(nvml)
    gpus = [(gpu.name, gpu.driver) for gpu in environment.gpus]
    return {"cpu": environment.cpu, "gpus": gpus, "packages": environment.packages}
