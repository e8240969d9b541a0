"""A comparison of two arms as cells for a table, and as Markdown."""

from __future__ import annotations

from resnext.errors import printable
from resnext.timing.change import describe
from resnext_bench.comparison.packages import describe_upgrades, upgrades

from .record import ArmRecord, Duel

HEADINGS = ("arm", "runs", "median ms", "B/A", "95 % interval", "rounds", "verdict")
#: Columns that are aligned to the left.
LEFT = ("arm", "runs", "verdict")


def cells(duel: Duel) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The cells of A, and of B; the verdict is the last."""
    change, (first, second) = duel.change, duel.arms
    quiet = sum(not each.disturbances for each in duel.measured)
    ratio = [f"{value:.3f}" for value in change.ratio or ()] or ["-"] * 3
    interval = f"{ratio[1]} to {ratio[2]}" if change.ratio else "-"
    rounds = f"{quiet} of {len(duel.measured)}"
    return (
        ("A", runs(first), _ms(first.median_ns), "", "", "", ""),
        ("B", runs(second), _ms(second.median_ns), ratio[0], interval, rounds, change.verdict),
    )


def title(duel: Duel) -> str:
    """The machine, and the threads of each arm."""
    threads = f"{duel.threads} thread{'s' * (duel.threads > 1)}"
    return f"{duel.arms[0].environment.title()}, {threads}"


def remarks(duel: Duel) -> list[str]:
    """Other weights, packages that differ, and the change in a sentence."""
    first, second = duel.arms
    versions = upgrades(first.environment.packages, second.environment.packages)
    lines = [] if second.weights is None else ["A and B have different weights"]
    if second.other_environment and versions:
        lines.append(f"packages, A -> B: {describe_upgrades(versions)}")
    lines.append(describe(duel.change, unit="pairs of processes" if duel.processes else "rounds"))
    return lines


def runs(arm: ArmRecord) -> str:
    """What an arm runs, on what."""
    where = f", Python {arm.environment.python} elsewhere" if arm.other_environment else ""
    subject = arm.subject if arm.subject == arm.backend else f"{arm.subject} on {arm.backend}"
    return printable(f"{subject} ({arm.precision}{where})")


def markdown(duel: Duel) -> str:
    """The comparison as a Markdown document."""
    alignment = (" --- " if name in LEFT else " ---: " for name in HEADINGS)
    wrong = [
        f"the output of {arm.name} is wrong: {failure}"
        for arm in duel.arms
        for failure in arm.parity.failures
    ]
    rows = [[cell.replace("|", r"\|") for cell in row] for row in cells(duel)]
    parts = [
        f"# {duel.change.verdict}: B against A, {duel.model or 'custom model'}, batch {duel.batch}",
        "",
        f"{title(duel)}.",
        "",
        f"| {' | '.join(HEADINGS)} |",
        f"|{'|'.join(alignment)}|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        *(f"- {line}" for line in [*remarks(duel), *wrong]),
        "",
    ]
    return "\n".join(parts)


def _ms(median_ns: float | None) -> str:
    return "-" if median_ns is None else f"{median_ns / 1e6:.3f}"
