"""A run as Markdown."""

from __future__ import annotations

from resnext_bench.record import Row, RunRecord

from .columns import columns, headings, lines, name
from .explanation import legend
from .first_line import verdict
from .sections import machine, measuring, rounds_done, sections, title


def markdown(run: RunRecord) -> str:
    """The run as a Markdown document."""
    rows = [cells for row in run.rows for cells in lines(row, run)]
    left = {column.heading for column in columns(run) if column.left}
    first = verdict(run)
    packages = ", ".join(
        f"{package} {version}" for package, version in run.environment.packages.items()
    )
    parts = [
        f"# {title(run)}",
        "",
        f"**{first.word}**: {first.sentence}",
        "",
        (
            f"{run.created}, {machine(run)}, {run.environment.memory_bytes / 2**30:.0f}"
            f" GiB, load {run.environment.load_1min:.2f} at the start; {run.environment.system},"
            f" Python {run.environment.python}; {packages}."
        ),
        (
            f"{rounds_done(run)} interleaved rounds, at least {run.duration_s:g} s of timed runs"
            " for each row."
        ),
        "",
        f"| {' | '.join(headings(run))} |",
        f"|{'|'.join(' --- ' if heading in left else ' ---: ' for heading in headings(run))}|",
        *(f"| {' | '.join(cells)} |" for cells in rows),
        "",
        legend(run),
        "",
        *(f"- {line}" for line in measuring(run)),
        "",
    ]
    for section in sections(run):
        parts += [f"## {section.heading}", ""]
        if section.aligned:
            parts += ["```text", *section.lines, "```", ""]
        else:
            parts += [*(f"- {line}" for line in section.lines), ""]
    delivered = [
        f"- {name(row, run)} batch {row.batch}: {row.delivered};"
        f" {', '.join(f'{note} {value}' for note, value in row.notes.items())}"
        + ("" if row.setup_s is None else f"; set-up {row.setup_s:.1f} s")
        + ("" if row.bind_s is None else f", of which compiling and first run {row.bind_s:.1f} s")
        + _gpu(row)
        for row in run.rows
        if row.delivered is not None
    ]
    parts += ["## What each row really got", "", *delivered, ""]
    if run.reused:
        parts += ["Reused from the cache: " + "; ".join(run.reused), ""]
    return "\n".join(parts)


def _gpu(row: Row) -> str:
    """Clocks, power and temperature over the rounds, and everything that lowered the clocks."""
    line = ""
    for label, unit, values in (
        ("SM clock", "MHz", [state.sm_clock_mhz for state in row.gpu]),
        ("power", "W", [state.power_w for state in row.gpu]),
        ("temperature", "°C", [state.temperature_c for state in row.gpu]),
    ):
        if reported := [value for value in values if value is not None]:
            low, high = f"{min(reported):.0f}", f"{max(reported):.0f}"
            line += f"; {label} {low if low == high else f'{low} to {high}'} {unit}"
    limits = dict.fromkeys(limit for state in row.gpu for limit in state.limits)
    line += f"; clocks held down by: {', '.join(limits)}" if limits else ""
    others = max((state.other_processes or 0 for state in row.gpu), default=0)
    return line + (f"; other processes on the GPU: {others}" if others else "")
