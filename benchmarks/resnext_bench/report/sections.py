"""What is said of a run besides its table: the title, how measuring went, reasons and caveats."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from resnext.errors import printable
from resnext_bench.control import Control
from resnext_bench.plan import in_flight
from resnext_bench.record import Row, RunRecord
from resnext_bench.scenarios.load_text import load_lines, loadgen_line

from .columns import name
from .endurance import cold_lines, energy_lines, named, payback_lines, soak_lines
from .served import served_lines


@dataclass(frozen=True)
class Section:
    """More about a run, under its table.

    Attributes:
        heading: a few words.
        lines: one for each fact.
        aligned: whether the lines are a small table, which keeps its line breaks.
    """

    heading: str
    lines: tuple[str, ...]
    aligned: bool = False


def sections(run: RunRecord) -> list[Section]:
    """What `SECTIONS` say of ``run``."""
    return [section for make in SECTIONS if (section := make(run)).lines]


def threads(run: RunRecord) -> str:
    """The numbers of CPU threads, and why; empty for a run from before this was recorded."""
    if not run.thread_reason:
        return ""
    counts = {run.threads} if run.threads is not None else {row.threads for row in run.rows}
    reason = run.thread_reason.removeprefix(f"{run.threads} ")
    return f"threads {', '.join(map(str, sorted(filter(None, counts))))}: {reason}"


def machine(run: RunRecord) -> str:
    """One line: processor, GPUs, threads."""
    return ", ".join(filter(None, (run.environment.title(), threads(run))))


def title(run: RunRecord) -> str:
    """One line: model, weights, precision."""
    custom = "ONNX file from elsewhere" if run.unknown else "custom model"
    return printable(f"{run.model or custom}, weights {run.weights.source}, {run.precision}")


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
    if not any(row.timings for row in run.rows):
        pass  # no round of any row counts
    elif run.ended == "precise" and target is not None:
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
    if run.unknown:
        lines.append(f"max error and top-1 are against the file itself in float64: {run.unknown}")
    if run.harness_ns is not None:
        lines.append(f"harness: {run.harness_ns / 1e3:.2f} us an iteration")
    return lines


_ENDINGS = {"time": "time was up", "interrupted": "interrupted"}


def _noise(control: Control) -> str:
    flight = in_flight(control.threads, control.streams)
    controlled = " ".join(filter(None, (control.backend, control.variant, flight)))
    again = f"{controlled} batch {control.batch} measured twice"
    if control.ratio is None or control.noise_floor is None:
        return f"noise floor unknown: {again}, fewer than six undisturbed rounds; no speedups"
    low, high = control.ratio[1:]
    text = f"noise floor {control.noise_floor:.1%}: {again}, ratio {low:.3f} to {high:.3f}"
    if control.quiet:
        return text
    return f"{text}; above {control.limit:.1%} no speedup is shown"


def remarks(run: RunRecord) -> list[str]:
    """One line for each reason against rows, with these."""
    return _by_text(run, lambda row: row.reasons, "")


def warnings(run: RunRecord) -> list[str]:
    """One line for each caveat, with its rows."""
    return _by_text(run, lambda row: row.warnings.values(), "warning: ")


def _by_text(run: RunRecord, texts: Callable[[Row], Iterable[str]], kind: str) -> list[str]:
    rows: dict[str, list[str]] = {}
    for row in run.rows:
        for text in texts(row):
            rows.setdefault(text, []).append(f"{name(row, run)} batch {row.batch}")
    return [printable(f"{', '.join(names)}: {kind}{text}") for text, names in rows.items()]


def _not_valid(run: RunRecord) -> Section:
    return Section("Not valid", tuple(remarks(run)))


def _warnings(run: RunRecord) -> Section:
    return Section("Warnings", tuple(warnings(run)))


def _cold_start(run: RunRecord) -> Section:
    return Section("Cold start (medians, seconds)", tuple(cold_lines(run)), aligned=True)


def _payback(run: RunRecord) -> Section:
    return Section("Build and start are paid back", tuple(payback_lines(run)))


def _load(run: RunRecord) -> Section:
    lines = [
        f"{named(row, run)}: {line}"
        for row in run.rows
        if row.load is not None
        for line in load_lines(row.load)
    ]
    lines += [
        f"{named(row, run)}: {loadgen_line(row.loadgen)}"
        for row in run.rows
        if row.loadgen is not None
    ]
    return Section("Load (latency from the planned arrival)", tuple(map(printable, lines)))


def _served(run: RunRecord) -> Section:
    return Section("Served models (means of a request)", tuple(map(printable, served_lines(run))))


def _energy(run: RunRecord) -> Section:
    return Section("Energy", tuple(energy_lines(run)))


def _soak(run: RunRecord) -> Section:
    return Section("Soak", tuple(soak_lines(run)))


#: What stands under a table, in order; a section without lines is left out.
SECTIONS: tuple[Callable[[RunRecord], Section], ...] = (
    _not_valid,
    _warnings,
    _served,
    _cold_start,
    _payback,
    _load,
    _energy,
    _soak,
)
