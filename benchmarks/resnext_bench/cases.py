"""Which precisions and artifacts a benchmark compares, under the names in its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from resnext.artifact.files import Artifact, read_artifact
from resnext.errors import BadWeights, UsageError
from resnext.precision import QUANTIZED, Precision
from resnext.runtimes.availability import available_runtimes, require
from resnext.runtimes.registry import RUNTIMES
from resnext.verify.check import artifact_weights

from .plan import Cell

if TYPE_CHECKING:
    from resnext.weights.spec import Weights

#: Minimum width of groups in channels; ``auto`` is the fastest in a trial, None leaves the groups
#: alone.
Merge: TypeAlias = int | Literal["auto"] | None

#: Every runtime that this machine has, among names of runtimes.
ALL = "all"


@dataclass(frozen=True)
class Variant:
    """What cells of one kind run.

    Attributes:
        precision: of weights and activations.
        artifact: what ONNX backends run; None means the cache's.
        calibration: images that a quantized artifact of the cache takes its ranges from, and how
            many; None for either means the default.
        merge: minimum input channels of a group in what is made, or ``auto``; None leaves groups
            alone.
    """

    precision: Precision = "fp32"
    artifact: Artifact | None = None
    calibration: tuple[str | None, int | None] = (None, None)
    merge: Merge = None


def made_variants(
    precisions: Sequence[Precision],
    calibration: str | None,
    images: int | None,
    merges: Sequence[Merge] = (None,),
) -> dict[str, Variant]:
    """A variant for each precision and width of groups, with artifacts from the cache; a single
    plain one has no name.

    Args:
        precisions: of weights and activations.
        calibration: images for int8 and fp8, or None for the default.
        images: how many.
        merges: minimum widths of groups; None leaves them alone.
    """
    made = {}
    for precision in precisions:
        for merge in merges:
            parts: list[str] = [precision] if len(precisions) > 1 else []
            parts += [f"merged {merge}"] if merge is not None else []
            quantized = precision in QUANTIZED
            made[" ".join(parts)] = Variant(
                precision,
                calibration=(calibration, images) if quantized else (None, None),
                merge=merge,
            )
    return made


def merge_obstacle(backend: str, merge: Merge) -> str | None:
    """Why rows of ``backend`` cannot have their groups merged so; None if they can.

    ``auto`` is timed on the runtime itself: by the live model, or for an ONNX file, on a CPU.
    """
    if merge is None or RUNTIMES[backend].live:
        return None
    if RUNTIMES[backend].formats[0] == "pt2":
        return "pt2 packages keep the groups as they are"
    if merge == "auto" and backend not in ("ort-cpu", "openvino"):
        return (
            f"auto times the live model, ort-cpu and openvino; for {backend} give a number of"
            " channels"
        )
    return None


def given_variants(
    subjects: Sequence[Path | Artifact],
    weights: Weights | str | None,
    precisions: Sequence[Precision] | None,
    *,
    named: bool = False,
) -> tuple[Weights, dict[str, Variant]]:
    """A variant for each artifact, named after its folder, and the weights of all of them.

    Args:
        subjects: artifacts or their paths.
        weights: what they were made from, loaded or by its SPEC; None means what the first one
            names.
        precisions: requested; None means the artifacts' own.
        named: name a single artifact too.

    Raises:
        UsageError: they are of different weights, one is there twice, or one is of another
            precision than requested.
        BadArtifact: one cannot be read.
        BadWeights: the weights cannot be found, or are not what the first was made from.
    """
    artifacts = [
        subject if isinstance(subject, Artifact) else read_artifact(subject) for subject in subjects
    ]
    first = artifacts[0].manifest
    for artifact in artifacts:
        manifest = artifact.manifest
        if precisions is not None and (manifest.precision,) != tuple(precisions):
            raise UsageError(
                f"{artifact.directory} is {manifest.precision}",
                hint=f"drop `precision` {','.join(precisions)}",
            )
        if (manifest.weights.sha256, manifest.preprocessing) != (
            first.weights.sha256,
            first.preprocessing,
        ):
            raise UsageError(
                f"{artifacts[0].directory} and {artifact.directory} are of different weights or"
                " preprocessing",
                hint="compare them in two runs",
            )
    names = [artifact.directory.resolve().name for artifact in artifacts]
    if len(set(names)) < len(names):
        names = [str(artifact.directory) for artifact in artifacts]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"the artifact {repeated} is given twice", hint="give it once")
    if weights is None or isinstance(weights, str):
        weights = artifact_weights(artifacts[0], weights)
    elif weights.sha256 != first.weights.sha256:
        raise BadWeights(f"`weights` are not those that {artifacts[0].path} was made from")
    variants = [Variant(artifact.manifest.precision, artifact) for artifact in artifacts]
    return weights, dict(zip(names if named or len(names) > 1 else [""], variants, strict=True))


def runtimes_here(
    names: Sequence[str], device: Literal["auto", "cpu", "cuda"], variants: Mapping[str, Variant]
) -> tuple[str, ...]:
    """``names``; if `ALL` is among them, every runtime of this machine that runs a variant.

    Raises:
        MissingRequirement: nothing can run on ``device``.
    """
    if ALL not in names:
        return tuple(names)
    available = available_runtimes(device)
    if not available:
        require("torch", device)  # its obstacle is everybody's
    return tuple(
        name
        for name in available
        if any(
            variant.precision in RUNTIMES[name].precisions
            and merge_obstacle(name, variant.merge) is None
            for variant in variants.values()
        )
    )


def cells_of(cases: Sequence[tuple[str, str]], batches: Sequence[int]) -> tuple[Cell, ...]:
    """Each case, a backend and the name of a variant, at each batch size."""
    return tuple(Cell(backend, batch, name) for batch in batches for backend, name in cases)


def chosen_cells(
    backends: Sequence[str], batches: Sequence[int], variants: Mapping[str, Variant]
) -> tuple[tuple[Cell, ...], list[str]]:
    """The rows to measure, and one line for each combination that is left out because it cannot
    run, if there are several.

    A live model has no artifact, and a package is compiled from the weights: these are measured
    once for each precision and width of groups, in the first variant of it.

    Raises:
        UsageError: the groups of the only variant cannot be merged as requested.
    """
    cases, left_out, live = [], [], set()
    for name, variant in variants.items():
        for backend in backends:
            known, reason = RUNTIMES[backend], merge_obstacle(backend, variant.merge)
            if reason is not None and len(variants) == 1:
                raise UsageError(f"`merge_groups`: {reason}")
            if reason is not None:
                left_out.append(f"{reason}: left out for {name}")
            elif len(variants) > 1 and variant.precision not in known.precisions:
                left_out.append(f"{backend} does not run {variant.precision}: left out for {name}")
            elif (backend, variant.precision, variant.merge) not in live:
                made = (backend, variant.precision, variant.merge)
                live |= {made} if _of_weights(known.formats[0], variant) else set()
                cases.append((backend, name))
    return cells_of(cases, batches), left_out


def _of_weights(source: str, variant: Variant) -> bool:
    """Whether a backend of ``source`` runs the weights themselves, whatever artifact the variant
    has.
    """
    given = variant.artifact
    return source == "weights" or (
        source == "pt2" and (given is None or given.manifest.kind != "pt2")
    )
