"""Which precisions and artifacts a benchmark compares, by what its rows call them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from resnext.artifact.files import read_artifact
from resnext.errors import UsageError
from resnext.precision import QUANTIZED, Precision
from resnext.runtimes.registry import RUNTIMES
from resnext.verify.check import artifact_weights

from .plan import Cell
from .run import Merge, Variant

if TYPE_CHECKING:
    from resnext.weights.spec import Weights


def made_variants(
    precisions: tuple[Precision, ...],
    calibration: str | None,
    images: int | None,
    merges: tuple[Merge, ...] = (None,),
) -> dict[str, Variant]:
    """A variant for each precision and width of groups, with artifacts from the cache; a single
    plain one has no name.

    Args:
        precisions: of weights and activations.
        calibration: images for int8 and fp8, or None for the default.
        images: how many.
        merges: least widths of groups; None leaves them alone.
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

    ``auto`` has to be timed where the row runs: by the live model itself, or for an ONNX file, on a
    CPU.
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
    paths: tuple[Path, ...], spec: str | None, precisions: tuple[Precision, ...] | None
) -> tuple[Weights, dict[str, Variant]]:
    """A variant for each artifact, called after its folder, and the weights that all were made
    from.

    Raises:
        UsageError: they are of different weights, one is given twice, or of another precision than
            was asked for.
        BadArtifact: one cannot be read.
    """
    artifacts = [read_artifact(path) for path in paths]
    first = artifacts[0].manifest
    for artifact in artifacts:
        held = artifact.manifest
        if precisions is not None and (held.precision,) != precisions:
            raise UsageError(
                f"{artifact.directory} is {held.precision}; drop --precision {','.join(precisions)}"
            )
        if (held.weights.sha256, held.preprocessing) != (first.weights.sha256, first.preprocessing):
            raise UsageError(
                f"{artifacts[0].directory} and {artifact.directory} are of different weights or"
                " preprocessing; compare them in two runs"
            )
    names = [artifact.directory.resolve().name for artifact in artifacts]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    if len(set(names)) < len(names):
        raise UsageError("an artifact is given twice; give each --artifact once")
    weights = artifact_weights(artifacts[0], spec)
    variants = [Variant(artifact.manifest.precision, artifact) for artifact in artifacts]
    return weights, dict(zip(names if len(names) > 1 else [""], variants, strict=True))


def chosen_cells(
    backends: tuple[str, ...], batches: tuple[int, ...], variants: dict[str, Variant]
) -> tuple[tuple[Cell, ...], list[str]]:
    """The rows to measure, and one line for each combination of several that is left out because it
    cannot be.

    A live model has no artifact, and a package is compiled from the weights: these are measured
        once for each
    precision and width of groups, in the first variant of it.

    Raises:
        UsageError: the groups of the only variant cannot be merged as asked for.
    """
    cells, left_out, live = [], [], set()
    for name, variant in variants.items():
        for backend in backends:
            known, reason = RUNTIMES[backend], merge_obstacle(backend, variant.merge)
            if reason is not None and len(variants) == 1:
                raise UsageError(f"--merge-groups: {reason}")
            if reason is not None:
                left_out.append(f"{reason}: left out for {name}")
            elif len(variants) > 1 and variant.precision not in known.precisions:
                left_out.append(f"{backend} does not run {variant.precision}: left out for {name}")
            elif (backend, variant.precision, variant.merge) not in live:
                made = (backend, variant.precision, variant.merge)
                live |= {made} if _of_weights(known.formats[0], variant) else set()
                cells.append((backend, name))
    return (
        tuple(Cell(backend, batch, name) for batch in batches for backend, name in cells),
        left_out,
    )


def _of_weights(source: str, variant: Variant) -> bool:
    """Whether a backend of ``source`` runs the weights themselves, whatever artifact the variant
    has.
    """
    given = variant.artifact
    return source == "weights" or (
        source == "pt2" and (given is None or given.manifest.kind != "pt2")
    )
