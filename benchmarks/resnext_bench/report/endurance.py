"""What scenarios say under the table of a run: energy and soaks."""

from __future__ import annotations

import math

from resnext_bench.record import Row, RunRecord
from resnext_bench.scenarios.growth import Growth

from .columns import name


def named(row: Row, run: RunRecord) -> str:
    """The row as sections call it."""
    return f"{name(row, run)} batch {row.batch}"


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
