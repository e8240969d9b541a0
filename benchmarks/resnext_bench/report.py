"""A run as a terminal table and as Markdown. Both give the boundary of each time."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

from resnext.errors import printable
from resnext.verify.untrained import CODE as UNTRAINED

from .control import Control
from .limits.distance import Distance
from .plan import in_flight
from .record import Row, RunRecord
from .stats import Timing

if TYPE_CHECKING:
    from rich.table import Table

HEADINGS = (
    "backend",
    "batch",
    "time",
    "median ms",
    "\u00b1",
    "p90 ms",
    "p99 ms",
    "images/s",
    "of limit",
    "speedup",
    "memory MB",
    "model MB",
    "max error",
    "top-1",
    "verdict",
)
#: Meaning of the columns, printed under every table.
LEGEND = (
    "time: host = end to end, copies included; device = CUDA events around the launch; graph ="
    " around a CUDA-graph replay. median: of the undisturbed rounds; \u00b1: half the width of its"
    " 95 % interval. images/s: batch over the median. of limit: by the least time of the network"
    " with every residual block fused, from this machine's ceilings (command limits). p90,"
    " p99: upper bounds at 99 % confidence, from 64 and 662 samples on. speedup: against the first"
    " row of the same batch, threads and streams, over interleaved rounds. memory: peak added by"
    " opening and the first run (on a GPU: memory in use after it, or PyTorch's peak if that is"
    " higher). max error, top-1: the timed output against float64 PyTorch, error relative to the"
    " logits' RMS."
)


#: Further columns of a run with labeled images, before the verdict.
ACCURACY_HEADINGS = ("test top-1", "agrees", "flips +/-")
_ACCURACY_LEGEND = (
    " test top-1: share of the labeled images that are right; agrees: share with float32 PyTorch's"
    " first class; flips: images won and lost against it."
)
_COLD_LEGEND = " cold: the caches are emptied before each run; never compared with hot times."
_STREAMS_LEGEND = (
    " streams: requests in flight at once; median: of one request, images/s: streams x batch over"
    " the median."
)
#: Columns that Markdown aligns to the left.
_LEFT = ("backend", "time", "verdict")


def headings(run: RunRecord) -> tuple[str, ...]:
    """The columns of ``run``."""
    more = ACCURACY_HEADINGS if _has_accuracy(run) else ()
    return (*HEADINGS[:-1], *more, HEADINGS[-1])


def legend(run: RunRecord) -> str:
    """Meaning of the columns of ``run``."""
    streams = _STREAMS_LEGEND if any(row.streams > 1 for row in run.rows) else ""
    cold = any(timing.cache == "cold" for row in run.rows for timing in row.timings)
    text = LEGEND
    if run.unknown:
        text = text.replace("against float64 PyTorch", "against the file itself in float64")
        text += f" n/a: the network is not known, only its graph; {run.unknown}."
    return text + _COLD_LEGEND * cold + streams + (_ACCURACY_LEGEND if _has_accuracy(run) else "")


def _has_accuracy(run: RunRecord) -> bool:
    return any(row.accuracy is not None for row in run.rows)


def lines(row: Row, run: RunRecord) -> list[tuple[str, ...]]:
    """The cells of ``row``: a line for each of its timings, or one for a failed row."""
    if not row.timings:
        table = [
            (_name(row, run), str(row.batch), *("-" for _ in HEADINGS[3:]), row.status.upper())
        ]
    else:
        table = [_line(row, run, timing) for timing in row.timings]
    return (
        [(*cells[:-1], *_accuracy(row), cells[-1]) for cells in table]
        if _has_accuracy(run)
        else table
    )


def _accuracy(row: Row) -> tuple[str, ...]:
    accuracy = row.accuracy
    if accuracy is None:
        return ("-",) * len(ACCURACY_HEADINGS)
    return (
        f"{accuracy.top1:.2%}",
        f"{accuracy.agreement:.2%}",
        f"+{accuracy.winning_flips} -{accuracy.losing_flips}",
    )


def _line(row: Row, run: RunRecord, timing: Timing) -> tuple[str, ...]:
    stats, parity = timing.stats, row.parity
    on_device = (
        row.peak_device_bytes if row.peak_device_bytes is not None and row.device != "cpu" else None
    )
    meaningless = UNTRAINED in row.warnings
    memory = on_device if on_device is not None else row.peak_host_bytes
    device = (
        ""
        if row.backend.endswith("cpu") or row.device in (None, "cpu")
        else f" ({str(row.device).split()[0]})"
    )
    return (
        _name(row, run) + device,
        str(row.batch),
        timing.boundary if timing.cache == "hot" else f"{timing.boundary} {timing.cache}",
        f"{stats.median_ns / 1e6:.3f}",
        "n/a" if stats.precision is None else f"{stats.precision:.1%}",
        "n/a" if stats.p90_ns is None else f"{stats.p90_ns / 1e6:.3f}",
        "n/a" if stats.p99_ns is None else f"{stats.p99_ns / 1e6:.3f}",
        f"{stats.images_per_s:,.1f}",
        ("n/a" if run.unknown else "-")
        if row.distance is None
        else f"{_share(row.distance, row.batch, timing):.0%}",
        "-" if timing.speedup is None else f"{timing.speedup[0]:.2f}x",
        "-" if memory is None else f"{memory / 1e6:.0f}",
        "-" if row.model_size_bytes is None else f"{row.model_size_bytes / 1e6:.1f}",
        "-" if parity is None or parity.max_error is None else f"{parity.max_error:.1e}",
        "-" if parity is None or parity.top1 is None or meaningless else f"{parity.top1:.0%}",
        row.status.upper(),
    )


def _share(distance: Distance, batch: int, timing: Timing) -> float:
    """Of the floor of fused blocks, by the time at one boundary."""
    return distance.blocks_ns / 1e9 * timing.stats.images_per_s / batch


def _name(row: Row, run: RunRecord) -> str:
    flight = in_flight(row.threads if run.threads is None else None, row.streams)
    return " ".join(filter(None, (row.backend, row.variant, flight)))


def threads(run: RunRecord) -> str:
    """The numbers of CPU threads, and why; empty for a run from before this was recorded."""
    if not run.thread_reason:
        return ""
    counts = {run.threads} if run.threads is not None else {row.threads for row in run.rows}
    reason = run.thread_reason.removeprefix(f"{run.threads} ")
    return f"threads {', '.join(map(str, sorted(filter(None, counts))))}: {reason}"


def title(run: RunRecord) -> str:
    """One line: model, weights, precision."""
    custom = "ONNX file from elsewhere" if run.unknown else "custom model"
    return printable(f"{run.model or custom}, weights {run.weights.source}, {run.precision}")


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


def rounds_done(run: RunRecord) -> str:
    """Number of rounds that were measured, with the planned number if there were fewer."""
    measured = max(
        (len(timing.rounds_ns) for row in run.rows for timing in row.timings), default=run.rounds
    )
    return str(measured) if measured >= run.rounds else f"{measured} of {run.rounds}"


def measuring(run: RunRecord) -> list[str]:
    """How measuring ended, the noise floor, and what timing itself added to each run."""
    lines = []
    rounds = f"{rounds_done(run)} rounds"
    target = run.precision_target
    if run.ended == "precise" and target is not None:
        lines.append(f"stopped after {rounds}: every median is known to {target:.1%} or better")
    elif run.ended == "rounds" and target is not None:
        lines.append(
            f"stopped after {rounds} for {run.rounds} planned ones, before every median was known"
            f" to {target:.1%}"
        )
    elif run.ended in ("time", "interrupted"):
        lines.append(f"stopped after {rounds}: {_ENDINGS[run.ended]}")
    if (control := run.control) is not None:
        lines.append(_noise(control))
    if run.harness_ns is not None:
        lines.append(f"harness: {run.harness_ns / 1e3:.2f} us an iteration")
    return lines


_ENDINGS = {"time": "time was up", "interrupted": "interrupted"}


def _noise(control: Control) -> str:
    flight = in_flight(control.threads, control.streams)
    name = " ".join(filter(None, (control.backend, control.variant, flight)))
    again = f"{name} batch {control.batch}, measured twice under two names"
    if control.ratio is None or control.noise_floor is None:
        return f"noise floor unknown: {again}, has fewer than six undisturbed rounds; no speedups"
    low, high = control.ratio[1:]
    text = (
        f"noise floor {control.noise_floor:.1%}: {again}, differs by a factor of"
        f" {low:.3f} to {high:.3f} (95 %)"
    )
    if control.quiet:
        return text
    return (
        f"{text}; above {control.limit:.1%} no speedup is shown: give a longer `max_seconds` or a"
        " larger `precision_target`"
    )


def remarks(run: RunRecord) -> list[str]:
    """One line for each reason against a row."""
    return [
        printable(f"{_name(row, run)} batch {row.batch}: {reason}")
        for row in run.rows
        for reason in row.reasons
    ]


def warnings(run: RunRecord) -> list[str]:
    """One line for each caveat, with its rows."""
    rows: dict[str, list[str]] = {}
    for row in run.rows:
        for warning in row.warnings.values():
            rows.setdefault(warning, []).append(f"{_name(row, run)} batch {row.batch}")
    return [printable(f"{', '.join(names)}: warning: {warning}") for warning, names in rows.items()]


def table(run: RunRecord) -> Table:
    """The terminal's table."""
    from rich.table import Table
    from rich.text import Text

    styles = {"VALID": "green", "INVALID": "yellow", "FAILED": "red"}
    columns = Table(
        title=Text(title(run), style="table.title"),  # a name may look like rich's markup
        title_justify="left",
        header_style="bold",
        box=None,
        pad_edge=False,
    )
    for heading in headings(run):
        left = heading in ("backend", "time", "verdict")
        columns.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for row in run.rows:
        for cells in lines(row, run):
            columns.add_row(
                *map(Text, map(printable, cells[:-1])), f"[{styles[cells[-1]]}]{cells[-1]}[/]"
            )
    return columns


def text(run: RunRecord) -> str:
    """The table with its title, legend and remarks, as plain text."""
    from rich.console import Console

    printed = StringIO()
    Console(file=printed, width=least_width(run), highlight=False).print(table(run))
    parts = [run.environment.title(), threads(run), printed.getvalue(), legend(run)]
    parts += [*measuring(run), *remarks(run), *warnings(run)]
    return "\n".join(line.rstrip() for part in parts for line in part.splitlines())


def _machine(run: RunRecord) -> str:
    return ", ".join(filter(None, (run.environment.title(), threads(run))))


def least_width(run: RunRecord) -> int:
    """Terminal width, in columns, below which numbers would be truncated."""
    return 200 if _has_accuracy(run) else 160


def markdown(run: RunRecord) -> str:
    """The run as a Markdown document."""
    rows = [cells for row in run.rows for cells in lines(row, run)]
    columns = headings(run)
    packages = ", ".join(f"{name} {version}" for name, version in run.environment.packages.items())
    parts = [
        f"# {title(run)}",
        "",
        (
            f"{run.created}, {_machine(run)}, {run.environment.memory_bytes / 2**30:.0f}"
            f" GiB, load {run.environment.load_1min:.2f} at the start; {run.environment.system},"
            f" Python {run.environment.python}; {packages}."
        ),
        (
            f"{rounds_done(run)} interleaved rounds, at least {run.duration_s:g} s of timed runs"
            " for each row."
        ),
        "",
        f"| {' | '.join(columns)} |",
        f"|{'|'.join(' --- ' if name in _LEFT else ' ---: ' for name in columns)}|",
        *(f"| {' | '.join(cells)} |" for cells in rows),
        "",
        legend(run),
        "",
        *(f"- {line}" for line in measuring(run)),
        "",
    ]
    if reasons := remarks(run):
        parts += ["## Not valid", "", *(f"- {line}" for line in reasons), ""]
    if caveats := warnings(run):
        parts += ["## Warnings", "", *(f"- {line}" for line in caveats), ""]
    delivered = [
        f"- {_name(row, run)} batch {row.batch}: {row.delivered};"
        f" {', '.join(f'{name} {value}' for name, value in row.notes.items())}; set-up"
        f" {row.setup_s:.1f} s"
        + ("" if row.bind_s is None else f", of which compiling and first run {row.bind_s:.1f} s")
        + _gpu(row)
        for row in run.rows
        if row.delivered is not None and row.setup_s is not None
    ]
    parts += ["## What each row really got", "", *delivered, ""]
    if run.reused:
        parts += ["Reused from the cache: " + "; ".join(run.reused), ""]
    return "\n".join(parts)
