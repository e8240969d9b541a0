"""A comparison of two runs as plain text and as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnext.timing.change import WORST_FIRST, describe
from resnext_bench.plan import in_flight
from resnext_bench.report.grid import draw, printed, say

from .packages import describe_upgrades

if TYPE_CHECKING:
    from resnext_bench.report.grid import Screen

    from .record import ComparisonRecord, RowChange

HEADINGS = (
    "backend",
    "batch",
    "time",
    "base ms",
    "new ms",
    "new/base",
    "95 % interval",
    "rounds",
    "verdict",
)
_LEFT = ("backend", "time", "verdict")
#: Columns that a narrow terminal does without, in the order of leaving.
_DROPPED_FIRST = ("rounds", "time", "base ms", "new ms")
_WORST_FIRST = ("INVALID", "FAILED", *WORST_FIRST)


def cells(row: RowChange) -> tuple[str, ...]:
    """The cells of one row."""
    ratio = row.change.ratio
    return (
        " ".join(filter(None, (row.backend, row.variant, in_flight(row.threads, row.streams)))),
        str(row.batch),
        row.boundary,
        f"{row.base_ns / 1e6:.3f}",
        f"{row.new_ns / 1e6:.3f}",
        "-" if ratio is None else f"{ratio.estimate:.3f}",
        "-" if ratio is None else f"{ratio.low:.3f} to {ratio.high:.3f}",
        f"{row.rounds[0]}, {row.rounds[1]}",
        row.change.verdict,
    )


def remarks(comparison: ComparisonRecord) -> list[str]:
    """One line for what differs and for a run that is not finished, one for each row that is not
    SAME, the worst first, and one for each row that was not compared.
    """
    lines = [f"the runs are unlike: {'; '.join(comparison.unlike)}"] if comparison.unlike else []
    if comparison.packages:
        lines.append(f"packages, base -> new: {describe_upgrades(comparison.packages)}")
    for name in comparison.unfinished:
        lines.append(f"the {name} run is unfinished: rows that it has not measured are missing")
    lines += [line for word, line in _findings(comparison) if word != "SAME"]
    return [*lines, *(f"not compared: {reason}" for reason in comparison.skipped)]


def verdict(comparison: ComparisonRecord) -> str:
    """The worst outcome of a row, and how many have it."""
    findings = _findings(comparison)
    words = [word for word, _ in findings]
    worst, reason = findings[0]
    if len(words) == 1:
        return f"{worst}: {reason}"
    others = [
        f"{words.count(word)} {word}" for word in _WORST_FIRST if word != worst and word in words
    ]
    counts = ", ".join([f"{words.count(worst)} of {len(words)} rows", *others])
    return f"{worst}: {counts}" + ("" if worst == "SAME" else f"; {reason}")


def _findings(comparison: ComparisonRecord) -> list[tuple[str, str]]:
    """The verdict and the sentence of each row, or how it was lost, the worst first."""
    rows = sorted(comparison.rows, key=lambda row: -row.new_ns / max(1.0, row.base_ns))
    findings = [
        *((row.status.upper(), str(row)) for row in comparison.lost),
        *((row.change.verdict, f"{row}: {describe(row.change, 'base', 'new')}") for row in rows),
    ]
    return sorted(findings, key=lambda finding: _WORST_FIRST.index(finding[0]))


def show(comparison: ComparisonRecord, console: Screen) -> None:
    """Print verdict, title, table and remarks."""
    first = verdict(comparison)
    say(first, console)
    say(_title(comparison), console)
    rows = [cells(row) for row in comparison.rows]
    draw(HEADINGS, rows, console, left=_LEFT, folded="backend", dropped_first=_DROPPED_FIRST)
    for line in remarks(comparison):
        if line not in first:
            say(line, console)


def text(comparison: ComparisonRecord) -> str:
    """Verdict, title, table and remarks."""
    return printed(lambda console: show(comparison, console))


def markdown(comparison: ComparisonRecord) -> str:
    """The comparison as a Markdown document."""
    alignment = (" --- " if name in _LEFT else " ---: " for name in HEADINGS)
    parts = [
        f"# {_title(comparison)}",
        "",
        verdict(comparison),
        "",
        f"| {' | '.join(HEADINGS)} |",
        f"|{'|'.join(alignment)}|",
        *(f"| {' | '.join(cells(row))} |" for row in comparison.rows),
        "",
        *(f"- {line}" for line in remarks(comparison)),
        "",
    ]
    return "\n".join(parts)


def _title(comparison: ComparisonRecord) -> str:
    return (
        f"{comparison.model or 'custom model'}, {comparison.machine}: run of {comparison.new}"
        f" against {comparison.base}"
    )
