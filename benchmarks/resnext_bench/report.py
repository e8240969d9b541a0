"""A run as a table on the terminal and as Markdown. Both say for each time what it encloses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .result import Row, Run, Timing

if TYPE_CHECKING:
    from rich.table import Table

HEADINGS = (
    "backend", "batch", "time", "median ms", "p90 ms", "p99 ms", "images/s", "speedup", "memory MB", "model MB",
    "max error", "top-1", "verdict",
)  # fmt: skip
#: What the columns mean, printed under every table.
LEGEND = (
    "time: host = end to end, copies included; device = CUDA events around the launch; graph = around a CUDA-graph "
    "replay. p90, p99: upper bounds at 99 % confidence, from 64 and 662 samples on. speedup: against the first "
    "backend at the same batch, median over interleaved rounds. memory: peak that opening and "
    "first running added (on a GPU: what it then held). "
    "max error, top-1: the timed output against float64 PyTorch, error relative to the logits' RMS."
)


def lines(row: Row) -> list[tuple[str, ...]]:
    """The cells of ``row``: a line for each of its timings, or one for a failed row."""
    if not row.timings:
        return [(row.backend, str(row.batch), *("-" for _ in HEADINGS[3:]), row.status.upper())]
    return [_line(row, timing) for timing in row.timings]


def _line(row: Row, timing: Timing) -> tuple[str, ...]:
    stats, parity = timing.stats, row.parity
    on_device = row.peak_device_bytes if row.peak_device_bytes is not None and row.device != "cpu" else None
    memory = on_device if on_device is not None else row.peak_host_bytes
    where = "" if row.backend.endswith("cpu") or row.device in (None, "cpu") else f" ({str(row.device).split()[0]})"
    return (
        row.backend + where,
        str(row.batch),
        timing.boundary,
        f"{stats.median_ns / 1e6:.3f}",
        "-" if stats.p90_ns is None else f"{stats.p90_ns / 1e6:.3f}",
        "-" if stats.p99_ns is None else f"{stats.p99_ns / 1e6:.3f}",
        f"{stats.images_per_s:,.1f}",
        "-" if timing.speedup is None else f"{timing.speedup[0]:.2f}x",
        "-" if memory is None else f"{memory / 1e6:.0f}",
        "-" if row.model_size_bytes is None else f"{row.model_size_bytes / 1e6:.1f}",
        "-" if parity is None or parity.max_error is None else f"{parity.max_error:.1e}",
        "-" if parity is None or parity.top1 is None else f"{parity.top1:.0%}",
        row.status.upper(),
    )


def title(run: Run) -> str:
    """One line: model, weights, precision."""
    return f"{run.model or 'custom model'}, weights {run.weights.source}, {run.precision}"


def remarks(run: Run) -> list[str]:
    """One line for each reason against a row."""
    return [f"{row.backend} batch {row.batch}: {reason}" for row in run.rows for reason in row.reasons]


def table(run: Run) -> Table:
    """The terminal's table."""
    from rich.table import Table

    styles = {"VALID": "green", "INVALID": "yellow", "FAILED": "red"}
    made = Table(title=title(run), title_justify="left", header_style="bold", box=None, pad_edge=False)
    for heading in HEADINGS:
        left = heading in ("backend", "time", "verdict")
        made.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for row in run.rows:
        for cells in lines(row):
            made.add_row(*cells[:-1], f"[{styles[cells[-1]]}]{cells[-1]}[/]")
    return made


def markdown(run: Run) -> str:
    """The run as a Markdown document."""
    rows = [cells for row in run.rows for cells in lines(row)]
    packages = ", ".join(f"{name} {version}" for name, version in run.environment.packages.items())
    parts = [
        f"# {title(run)}",
        "",
        f"{run.created}, {run.environment.title()}, {run.environment.memory_bytes / 2**30:.0f} GiB, "
        f"load {run.environment.load_1min:.2f} at the start; {run.environment.system}, "
        f"Python {run.environment.python}; {packages}.",
        f"{run.rounds} interleaved rounds, {run.duration_s:g} s of timed runs for each row.",
        "",
        f"| {' | '.join(HEADINGS)} |",
        f"|{'|'.join(' --- ' if h in ('backend', 'time', 'verdict') else ' ---: ' for h in HEADINGS)}|",
        *(f"| {' | '.join(cells)} |" for cells in rows),
        "",
        LEGEND,
        "",
    ]
    if found := remarks(run):
        parts += ["## Not valid", "", *(f"- {line}" for line in found), ""]
    delivered = [
        f"- {row.backend} batch {row.batch}: {row.delivered}; "
        f"{', '.join(f'{name} {value}' for name, value in row.notes.items())}; set-up {row.setup_s:.1f} s"
        + ("" if row.bind_s is None else f", of which compiling and first run {row.bind_s:.1f} s")
        for row in run.rows
        if row.delivered is not None and row.setup_s is not None
    ]
    parts += ["## What each row really got", "", *delivered, ""]
    if run.reused:
        parts += ["Reused from the cache: " + "; ".join(run.reused), ""]
    return "\n".join(parts)
