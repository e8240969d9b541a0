"""A comparison of two runs as plain text and as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnext.timing.change import describe
from resnext_bench.plan import in_flight

from .packages import describe_upgrades

if TYPE_CHECKING:
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
    """One line for what differs, one for each verdict that is not SAME, and one for each row that
    was not compared.
    """
    lines = [f"the runs are unlike: {'; '.join(comparison.unlike)}"] if comparison.unlike else []
    if comparison.packages:
        lines.append(f"packages, base -> new: {describe_upgrades(comparison.packages)}")
    lines += [
        f"{row}: {describe(row.change, 'base', 'new')}"
        for row in comparison.rows
        if row.change.verdict != "SAME"
    ]
    return [*lines, *(f"not compared: {reason}" for reason in comparison.skipped)]


def text(comparison: ComparisonRecord) -> str:
    """Title, table and remarks."""
    rows = [HEADINGS, *map(cells, comparison.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    table = [
        "  ".join(
            cell.ljust(width) if name in _LEFT else cell.rjust(width)
            for cell, width, name in zip(row, widths, HEADINGS, strict=True)
        ).rstrip()
        for row in rows
    ]
    return "\n".join([_title(comparison), *table, *remarks(comparison)])


def markdown(comparison: ComparisonRecord) -> str:
    """The comparison as a Markdown document."""
    alignment = (" --- " if name in _LEFT else " ---: " for name in HEADINGS)
    parts = [
        f"# {_title(comparison)}",
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
