"""What scenarios say under the table of a run: cold starts, energy and soaks."""

from __future__ import annotations

import math
import statistics

from resnext_bench.record import Row, RunRecord
from resnext_bench.scenarios.cold_record import Start, median_of
from resnext_bench.scenarios.growth import Growth

from .columns import name
from .payback import payback


def named(row: Row, run: RunRecord) -> str:
    """The row as sections call it."""
    return f"{name(row, run)} batch {row.batch}"


#: Columns of the cold starts: medians, seconds; of the first, the range of the repetitions too.
_HEADINGS = ("row", "caches", "first answer s", "python", "import", "open", "JIT", "peak MB")


def cold_lines(run: RunRecord) -> list[str]:
    """A small table: without and with caches, two lines for each row with cold starts."""
    table: list[tuple[str, ...]] = [_HEADINGS]
    for row in run.rows:
        if row.cold_start is not None:
            table.append((named(row, run), "none", *_starts(row.cold_start.without_caches)))
            table.append(("", "kept", *_starts(row.cold_start.with_caches)))
    if len(table) == 1:
        return []
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in table
    ]


def _starts(starts: tuple[Start, ...]) -> tuple[str, ...]:
    totals = [start.total_s for start in starts]
    peaks = [start.peak_host_bytes for start in starts if start.peak_host_bytes is not None]
    return (
        f"{median_of(starts, lambda one: one.total_s):.2f} ({min(totals):.2f}-{max(totals):.2f})",
        f"{median_of(starts, lambda one: one.python_s):.2f}",
        f"{median_of(starts, lambda one: one.import_s):.2f}",
        f"{median_of(starts, lambda one: one.open_s):.2f}",
        f"{median_of(starts, lambda one: one.jit_s):.2f}",
        f"{statistics.median(peaks) / 1e6:.0f}" if peaks else "n/a",
    )


def payback_lines(run: RunRecord) -> list[str]:
    """After how many images each row has paid for its build, and what was not cold."""
    lines = paid_lines(run)
    kept = [
        named(row, run)
        for row in run.rows
        if row.cold_start is not None and row.cold_start.file_dropped is not True
    ]
    if kept:
        lines.append(f"{', '.join(kept)}: its file may have been in the page cache all the time")
    return lines


def paid_lines(run: RunRecord) -> list[str]:
    """After how many images each row has paid for its build, against the row that its speedup is
    over; nothing without cold starts of both.
    """
    lines: list[str] = []
    bases: dict[tuple[object, ...], Row] = {}
    floor = 0.0 if run.control is None else run.control.noise_floor or 0.0
    for row in run.rows:
        if not row.timings:
            continue
        timing = row.timings[-1]
        like = (row.batch, row.threads, row.streams, timing.boundary, timing.cache)
        base = bases.setdefault(like, row)
        if base is not row and row.cold_start is not None and base.cold_start is not None:
            lines.append(f"{named(row, run)} against {named(base, run)}: {_paid(row, base, floor)}")
    return lines


def _paid(row: Row, base: Row, floor: float) -> str:
    paid = payback(row, base, floor)
    if paid.images is None or paid.low is None or paid.high is None:
        return paid.reason
    if paid.images == 0:
        return "at the first image"
    return f"after {_count(paid.images)} images ({_count(paid.low)} to {_count(paid.high)})"


def _count(images: float) -> str:
    """Three digits are more than is known."""
    return f"{float(f'{math.ceil(images):.3g}'):,.0f}"


def energy_lines(run: RunRecord) -> list[str]:
    """A line for each row and source, then what could not be read, once."""
    lines, missing = [], dict[str, None]()
    for row in run.rows:
        if row.energy is None:
            continue
        missing |= dict.fromkeys(row.energy.problems)
        for use in row.energy.uses:
            text = f"{named(row, run)}: {use.source}"
            if use.joules_per_image is None or use.above_idle is None:
                lines.append(f"{text}: not known, {use.reason}")
                continue
            lines.append(
                f"{text} {use.joules_per_image:.3g} J an image, {use.above_idle:.3g} J above idle"
                f" ({use.power_w:.1f} W, idle {use.idle_w:.1f} W; {use.method})"
            )
    return [*lines, *(f"not measured: {problem}" for problem in missing)]


def soak_lines(run: RunRecord) -> list[str]:
    """Two lines for each row with a soak: how it went, and what grew."""
    lines = []
    for row in run.rows:
        soak = row.soak
        if soak is None:
            continue
        ended = "" if soak.lasted_s >= soak.minutes * 60 else f" of {soak.minutes:g}, ended early"
        sizes = ", ".join(map(str, soak.batches))
        same = (
            "outputs as at the start"
            if soak.changed_s is None
            else f"another output after {soak.changed_s:.0f} s"
        )
        lines.append(
            f"{named(row, run)}: {soak.lasted_s / 60:.1f} minutes{ended}, {soak.runs:,} runs at"
            f" batch {sizes}; {same}"
        )
        facts = [_memory("host memory", soak.host_growth, known=bool(soak.host_bytes))]
        if soak.device_bytes:
            facts.append(_memory("device memory", soak.device_growth, known=True))
        lines.append(f"{', '.join([*facts, _latency(soak.latency_growth)])} (95 % intervals)")
    return lines


def _memory(place: str, growth: Growth | None, *, known: bool) -> str:
    if growth is None:
        return f"{place}: {'too short to tell' if known else 'not told by the system'}"
    estimate, low, high = (value / 1e6 for value in growth.per_minute)
    return f"{place} {estimate:+.2f} MB a minute ({low:+.2f} to {high:+.2f})"


def _latency(growth: Growth | None) -> str:
    if growth is None:
        return "latency: too short to tell"
    estimate, low, high = (100 * math.expm1(value) for value in growth.total)
    return f"latency {estimate:+.1f} % in all ({low:+.1f} to {high:+.1f})"
