"""The columns of the table: what each shows, and which of them a narrow terminal does without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from resnext.verify.untrained import CODE as UNTRAINED
from resnext_bench.limits.distance import Distance
from resnext_bench.plan import in_flight
from resnext_bench.record import Row, RunRecord
from resnext_bench.stats import Timing

from .rounds import sparkline

#: Columns that a narrow terminal does without, the first to go first, after those that have no
#: value in any row. The others are always shown: verdict, backend, batch, median and speedup.
DROPPED_FIRST = (
    "flips +/-",
    "model MB",
    "top-1",
    "max error",
    "agrees",
    "of limit",
    "memory MB",
    "time",
    "p90 ms",
    "rounds",
    "p99 ms",
    "images/s",
    "±",
    "test top-1",
)


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        heading: with the unit.
        meaning: of its values.
        cell: its text; called for rows with times.
        left: whether its cells are aligned to the left.
    """

    heading: str
    meaning: str
    cell: Callable[[Row, RunRecord, Timing], str]
    left: bool = False


def headings(run: RunRecord) -> tuple[str, ...]:
    """The columns of ``run``."""
    return tuple(column.heading for column in columns(run))


def columns(run: RunRecord) -> tuple[Column, ...]:
    """The columns of ``run``: those of labeled images only if it has them."""
    return (*COLUMNS, *ACCURACY) if _has_accuracy(run) else COLUMNS


def lines(row: Row, run: RunRecord, most_rounds: int = 24) -> list[tuple[str, ...]]:
    """The cells of ``row``: a line for each of its timings, or one for a failed row.

    Args:
        row: one of ``run``.
        run: decides which columns there are.
        most_rounds: characters of a sparkline.
    """
    if not row.timings:
        known = {"verdict": row.status.upper(), "backend": name(row, run), "batch": str(row.batch)}
        return [tuple(known.get(heading, "-") for heading in headings(run))]
    return [
        tuple(
            sparkline(timing, most_rounds)
            if column.heading == "rounds"
            else column.cell(row, run, timing)
            for column in columns(run)
        )
        for timing in row.timings
    ]


def name(row: Row, run: RunRecord) -> str:
    """Backend, candidate, threads and streams of ``row``, as far as they tell rows apart."""
    flight = in_flight(row.threads if run.threads is None else None, row.streams)
    return " ".join(filter(None, (row.backend, row.variant, flight)))


def _has_accuracy(run: RunRecord) -> bool:
    return any(row.accuracy is not None for row in run.rows)


def _backend(row: Row, run: RunRecord, timing: Timing) -> str:  # noqa: ARG001  # as every cell
    if row.backend.endswith("cpu") or row.device in (None, "cpu"):
        return name(row, run)
    return f"{name(row, run)} ({str(row.device).split()[0]})"


def boundary(timing: Timing) -> str:
    """What a time encloses, and whether the caches were emptied before."""
    return timing.boundary if timing.cache == "hot" else f"{timing.boundary} {timing.cache}"


def _ms(ns: float | None) -> str:
    return "n/a" if ns is None else f"{ns / 1e6:.3f}"


def _of_limit(row: Row, run: RunRecord, timing: Timing) -> str:
    if row.distance is None:
        return "n/a" if run.unknown else "-"
    return f"{_share(row.distance, row.batch, timing):.0%}"


def _share(distance: Distance, batch: int, timing: Timing) -> float:
    """Of the floor of fused blocks, by the time at one boundary."""
    return distance.blocks_ns / 1e9 * timing.stats.images_per_s / batch


def _memory(row: Row) -> str:
    on_device = row.peak_device_bytes if row.device != "cpu" else None
    memory = row.peak_host_bytes if on_device is None else on_device
    return "-" if memory is None else f"{memory / 1e6:.0f}"


def _max_error(row: Row) -> str:
    known = row.parity is not None and row.parity.max_error is not None
    return f"{row.parity.max_error:.1e}" if known else "-"  # type: ignore[union-attr]  # known


def _top1(row: Row) -> str:
    top1 = None if row.parity is None else row.parity.top1
    return "-" if top1 is None or UNTRAINED in row.warnings else f"{top1:.0%}"


def _precision(timing: Timing) -> str:
    precision = timing.stats.precision
    return "n/a" if precision is None else f"{precision:.1%}"


#: Columns of every run.
COLUMNS = (
    Column("verdict", "VALID, INVALID or FAILED", lambda row, _, __: row.status.upper(), left=True),
    Column(
        "backend",
        "runtime, with what else tells the row apart from the others",
        _backend,
        left=True,
    ),
    Column("batch", "images in one run", lambda row, _, __: str(row.batch)),
    Column(
        "time",
        "host = end to end, copies included; device = CUDA events around the launch; graph ="
        " around a CUDA-graph replay",
        lambda _, __, timing: boundary(timing),
        left=True,
    ),
    Column(
        "median ms", "of the undisturbed rounds", lambda _, __, timing: _ms(timing.stats.median_ns)
    ),
    Column("±", "half the width of the median's 95 % interval", lambda _, __, t: _precision(t)),
    Column(
        "p90 ms",
        "upper bound at 99 % confidence, from 64 samples on",
        lambda _, __, timing: _ms(timing.stats.p90_ns),
    ),
    Column(
        "p99 ms",
        "upper bound at 99 % confidence, from 662 samples on",
        lambda _, __, timing: _ms(timing.stats.p99_ns),
    ),
    Column(
        "rounds",
        "median of each round, the first one left: the lowest bar is the fastest round, the"
        " highest 10 % slower or the slowest; × was disturbed and does not count",
        lambda _, __, timing: sparkline(timing),
        left=True,
    ),
    Column(
        "images/s",
        "batch over the median",
        lambda _, __, timing: f"{timing.stats.images_per_s:,.1f}",
    ),
    Column(
        "of limit",
        "by the least time of the network with every residual block fused, from this machine's"
        " ceilings (command limits)",
        _of_limit,
    ),
    Column(
        "speedup",
        "against the first row of the same batch, threads and streams, over interleaved rounds",
        lambda _, __, timing: "-" if timing.speedup is None else f"{timing.speedup[0]:.2f}x",
    ),
    Column(
        "memory MB",
        "peak added by opening and the first runs (on a GPU: memory in use after it, or PyTorch's"
        " peak if that is higher)",
        lambda row, _, __: _memory(row),
    ),
    Column(
        "model MB",
        "size of the file, or of a live model's tensors",
        lambda row, _, __: (
            "-" if row.model_size_bytes is None else f"{row.model_size_bytes / 1e6:.1f}"
        ),
    ),
    Column(
        "max error",
        "of the timed output against float64 PyTorch, relative to the logits' RMS",
        lambda row, _, __: _max_error(row),
    ),
    Column(
        "top-1",
        "share of outputs with the first class of float64 PyTorch",
        lambda row, _, __: _top1(row),
    ),
)
#: Further columns of a run with labeled images.
ACCURACY = (
    Column(
        "test top-1",
        "share of the labeled images that are right",
        lambda row, _, __: "-" if row.accuracy is None else f"{row.accuracy.top1:.2%}",
    ),
    Column(
        "agrees",
        "share of them with float32 PyTorch's first class",
        lambda row, _, __: "-" if row.accuracy is None else f"{row.accuracy.agreement:.2%}",
    ),
    Column(
        "flips +/-",
        "images won and lost against float32 PyTorch",
        lambda row, _, __: (
            "-"
            if row.accuracy is None
            else f"+{row.accuracy.winning_flips} -{row.accuracy.losing_flips}"
        ),
    ),
)
#: Headings of a run without labeled images.
HEADINGS = tuple(column.heading for column in COLUMNS)
