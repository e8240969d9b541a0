"""``resnext-parity --batch-integrity``: its call, its table and its verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from resnext.storage import write_text

from .app import echo
from .sections import SectionOption

if TYPE_CHECKING:
    from resnext.artifact.files import Artifact
    from resnext.verify.batches.laws import Integrity, Law

    from .junit import JUnit


def run(
    opened: Artifact,
    backend: str | None,
    batch: int | None,
    seed: int,
    json_path: str | None,
    junit: JUnit,
) -> None:
    """Check batch integrity, print the outcome, add it to ``junit``, and write it as JSON if
    requested.

    Raises:
        GateFailed: a law is broken.
        UsageError: an option for the comparison with PyTorch was given, too.
    """
    from resnext.errors import GateFailed
    from resnext.verify.batches.integrity import batch_integrity
    from resnext.verify.check import natural_runtime

    from .parity_junit import cases_of_integrity, classname

    _refuse_reference_options()
    runtime = backend or natural_runtime(opened)
    outcome = batch_integrity(opened, runtime=runtime, batch=batch, seed=seed)
    junit.add(cases_of_integrity(outcome, classname(opened, runtime)), "\n".join(table(outcome)))
    if json_path != "-":
        say(outcome, opened.path)
    if json_path is not None:
        write_text(json_path, outcome.model_dump_json(indent=2) + "\n")
    if not outcome.passed:
        raise GateFailed(
            f"the rows of a batch are not independent in {opened.path} on {runtime}:"
            f" {'; '.join(outcome.failures)}"
        )


def say(outcome: Integrity, path: Path) -> None:
    """Print the outcome for the file at ``path``."""
    verdict = "PASS" if outcome.passed else "FAIL"
    scope = "batch integrity, the cheap half," if outcome.quick else "batch integrity"
    echo(f"{verdict}  {scope} of {path} on {outcome.backend}")
    for line in table(outcome):
        echo(f"  {line}")


def table(outcome: Integrity) -> list[str]:
    """One line for each law: batch sizes, worst difference, limit, verdict."""
    rows = [("law", "batch", "worst", "limit", ""), *map(_row, outcome.laws)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]])
        for row in rows
    ]
    rounding = "not measured" if outcome.rounding is None else f"{outcome.rounding:.1e}"
    contrast = "" if outcome.contrast is None else f"; two images differ by {outcome.contrast:.1e}"
    return [
        *(line.rstrip() for line in lines),
        f"relative to the logits' RMS; rounding {rounding}, noise {outcome.noise:.1e}{contrast}",
    ]


def _row(law: Law) -> tuple[str, str, str, str, str]:
    from resnext.verify.batches.laws import spans

    worst, limit = ("" if it is None else f"{it:.1e}" for it in (law.worst, law.limit))
    sizes = spans(sorted({*law.batches} - {*law.refused}))
    if law.refused:
        sizes += f"; past the range: {spans(law.refused)} refused"
    verdict = "PASS" if law.passed else "FAIL"
    return law.law, sizes, worst, limit, f"{verdict}, drift" if law.drifts else verdict


def _refuse_reference_options() -> None:
    """Check that no option of a section that this call does not use was given."""
    from resnext.errors import UsageError

    context = click.get_current_context()
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if (
            isinstance(option, SectionOption)
            and option.section == "What to compare with"
            and option.name != "seed"
            and source is click.core.ParameterSource.COMMANDLINE
        ):
            raise UsageError(
                f"`batch_integrity` needs no reference, so {option.opts[0]} has no effect"
            )
