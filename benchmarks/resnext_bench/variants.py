"""Which precisions and artifacts a benchmark compares, by what its rows call them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from resnext.artifact import read_artifact
from resnext.backends import BACKENDS
from resnext.config import Precision
from resnext.errors import UsageError
from resnext.parity_command import artifact_weights

from .plan import Cell
from .run import Variant

if TYPE_CHECKING:
    from resnext.weights import Weights


def made_variants(precisions: tuple[Precision, ...], calibration: str | None, images: int | None) -> dict[str, Variant]:
    """A variant for each precision, with artifacts from the cache; a single one has no name."""
    return {
        precision if len(precisions) > 1 else "": Variant(
            precision, calibration=(calibration, images) if precision in ("int8", "fp8") else (None, None)
        )
        for precision in precisions
    }


def given_variants(
    paths: tuple[Path, ...], spec: str | None, precisions: tuple[Precision, ...] | None
) -> tuple[Weights, dict[str, Variant]]:
    """A variant for each artifact, called after its folder, and the weights that all were made from.

    Raises:
        UsageError: they are of different weights, one is given twice, or of another precision than was asked for.
        BadArtifact: one cannot be read.
    """
    artifacts = [read_artifact(path) for path in paths]
    first = artifacts[0].manifest
    for artifact in artifacts:
        held = artifact.manifest
        if precisions is not None and (held.precision,) != precisions:
            raise UsageError(f"{artifact.directory} is {held.precision}; drop --precision {','.join(precisions)}")
        if (held.weights.sha256, held.preprocessing) != (first.weights.sha256, first.preprocessing):
            raise UsageError(
                f"{artifacts[0].directory} and {artifact.directory} are of different weights or preprocessing; "
                "compare them in two runs"
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
    """The rows to measure, and one line for each combination of several that is left out because it cannot be.

    A live model has no artifact, and a package is compiled from the weights: these are measured once for each
    precision, in the first variant of it.
    """
    cells, left_out, live = [], [], set()
    for name, variant in variants.items():
        for backend in backends:
            known = BACKENDS[backend]
            if len(variants) > 1 and variant.precision not in known.precisions:
                left_out.append(f"{backend} does not run {variant.precision}: left out for {name}")
            elif (backend, variant.precision) not in live:
                live |= {(backend, variant.precision)} if _of_weights(known.source, variant) else set()
                cells.append((backend, name))
    return tuple(Cell(backend, batch, name) for batch in batches for backend, name in cells), left_out


def _of_weights(source: str, variant: Variant) -> bool:
    """Whether a backend of ``source`` runs the weights themselves, whatever artifact the variant has."""
    given = variant.artifact
    return source == "model" or (source == "pt2" and (given is None or given.manifest.kind != "pt2"))
