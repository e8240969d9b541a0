"""The verdict of a whole run, in words: can it be believed, and which row is the fastest?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from resnext.errors import printable
from resnext.timing.intervals import Interval
from resnext_bench.plan import in_flight
from resnext_bench.record import FindingRecord, Row, RunRecord
from resnext_bench.stats import Timing, ratio_interval

from .columns import name

Word: TypeAlias = Literal["VALID", "INVALID", "FAILED"]
#: Settings that a sentence names one by one, and clauses that it has.
_MOST_NAMED = 3
#: Checks that more or calmer rounds may satisfy. A wrong output or precision is said before them.
_NOISE = (
    "disturbed-machine",
    "too-few-samples",
    "unsteady-machine",
    "imprecise-median",
    "late-arrivals",
)


@dataclass(frozen=True)
class Verdict:
    """The first line of a report.

    Attributes:
        word: ``VALID`` if every row is; ``INVALID`` if one is not; ``FAILED`` if rows failed and
            the others are valid.
        sentence: the fastest rows with their speedups and the noise floor, or the first reason
            against a row with its remedy; fields in backticks.
    """

    word: Word
    sentence: str

    def __str__(self) -> str:
        return f"{self.word}: {self.sentence}"


def verdict(run: RunRecord) -> Verdict:
    """What to know first about ``run``."""
    bad = [row for row in run.rows if row.status != "valid"]
    stopped = {"interrupted": "interrupted early; ", "time": "out of time; "}.get(
        run.ended or "", ""
    )
    if not bad:
        return Verdict("VALID", printable(f"{stopped}{_standing(run)}"))
    word: Word = "INVALID" if any(row.status == "invalid" for row in bad) else "FAILED"
    first = next((row for row in bad if _serious(row)), bad[0])
    which = f"{name(first, run)} batch {first.batch}: {_reason(first)}"
    count = f"{len(bad)} of {len(run.rows)} rows" if len(run.rows) > 1 else ""
    text = f"{count}, first {which}" if len(bad) > 1 else ", ".join(filter(None, (count, which)))
    standing = f". Of the valid rows, {_standing(run)}" if len(bad) < len(run.rows) else ""
    return Verdict(word, printable(f"{stopped}{text}{standing}"))


def _refusals(row: Row) -> list[FindingRecord]:
    return [finding for finding in row.findings if finding.severity == "refused"]


def _serious(row: Row) -> bool:
    """Whether something else than noise is against ``row``."""
    refusals = _refusals(row)
    return not refusals or any(finding.code not in _NOISE for finding in refusals)


def _reason(row: Row) -> str:
    """The first reason against ``row``, noise last, without its details, and the remedy."""
    refusals = sorted(_refusals(row), key=lambda finding: finding.code in _NOISE)
    if not refusals:
        return row.reasons[0] if row.reasons else "no reason was recorded"
    first = refusals[0]
    # A scenario's error begins with the name of the scenario.
    whole = first.code == "scenario-failed"
    message = first.message if whole else first.message.partition(": ")[0]
    return "; ".join(filter(None, (message, first.hint)))


@dataclass(frozen=True)
class _Lead:
    """The fastest rows of one setting.

    Attributes:
        rows: the fastest; several if measuring cannot tell them apart.
        winners: their names.
        setting: batch size, and if the run has several, threads and streams.
        rival: the first row, or if that is among the fastest, the next one; None without one.
        ratio: time of the rival over that of the fastest; None if that is unknown.
        timing: of the fastest.
    """

    rows: tuple[Row, ...]
    winners: tuple[str, ...]
    setting: str
    rival: str | None
    ratio: Interval | None
    timing: Timing


def fastest(run: RunRecord) -> set[int]:
    """Indices of the rows that are the fastest of several, as `verdict` names them."""
    if run.control is not None and not run.control.quiet:
        return set()
    return {
        index
        for lead in _leads(run)
        if lead.ratio is not None
        for index, row in enumerate(run.rows)
        if row in lead.rows
    }


def _settings(run: RunRecord) -> dict[tuple[int, int | None, int], list[Row]]:
    """Valid rows by batch size, threads if the run has several, and streams."""
    settings: dict[tuple[int, int | None, int], list[Row]] = {}
    for row in run.rows:
        if row.status == "valid" and row.timings:
            threads = row.threads if run.threads is None else None
            settings.setdefault((row.batch, threads, row.streams), []).append(row)
    return settings


def _leads(run: RunRecord) -> list[_Lead]:
    floor = 0.0 if run.control is None else run.control.noise_floor or 0.0
    return [_lead(rows, _setting(*setting), run, floor) for setting, rows in _settings(run).items()]


def _standing(run: RunRecord) -> str:
    """Who is the fastest at each setting, and by how much."""
    floor = None if run.control is None else run.control.noise_floor
    leads = _leads(run)
    several = any(lead.rival is not None for lead in leads)
    if run.control is not None and not run.control.quiet and several:
        known = "unknown" if floor is None else f"{floor:.1%}, above {run.control.limit:.1%}"
        remedy = "a longer `duration` or a larger `precision_target`"
        return f"no speedups, the noise floor is {known}: give {remedy}"
    if not several:
        shown = [f"{lead.winners[0]} {_time(lead)} at {lead.setting}" for lead in leads]
        more = f" and {len(shown) - _MOST_NAMED} more" if len(shown) > _MOST_NAMED else ""
        return ", ".join(shown[:_MOST_NAMED]) + more
    if all(lead.ratio is None for lead in leads):
        return "too few undisturbed rounds to say which row is the fastest: give more `rounds`"
    noise = "" if floor is None else f"; noise floor {floor:.1%}"
    clauses = _clauses([lead for lead in leads if lead.rival is not None])
    more = f"; {len(clauses) - _MOST_NAMED} more below" if len(clauses) > _MOST_NAMED else ""
    return "; ".join(clauses[:_MOST_NAMED]) + more + noise


def _setting(batch: int, threads: int | None, streams: int) -> str:
    flight = in_flight(threads, streams)
    return f"batch {batch}" + (f" with {flight}" if flight else "")


def _time(lead: _Lead) -> str:
    precision = lead.timing.stats.precision
    known = "" if precision is None else f" (± {precision:.1%})"
    return f"takes {lead.timing.stats.median_ns / 1e6:.4g} ms{known}"


def _lead(rows: Sequence[Row], setting: str, run: RunRecord, floor: float) -> _Lead:
    """The fastest of ``rows``, by the boundary that they are judged by if they have the same one,
    else by the host's.
    """
    same = len({(row.timings[-1].boundary, row.timings[-1].cache) for row in rows}) == 1
    times = {name(row, run): row.timings[-1 if same else 0] for row in rows}
    ranked = sorted(times, key=lambda each: times[each].stats.median_ns)
    best = times[ranked[0]]
    ratios = {each: ratio_interval(times[each].quiet_ns, best.quiet_ns) for each in ranked[1:]}
    equal = [each for each, ratio in ratios.items() if ratio and ratio.low <= 1 + floor]
    winners = (ranked[0], *equal)
    others = [each for each in ranked if each not in winners]
    first = next(iter(times))
    rival = first if first in others else next(iter(others or equal), None)
    flight = in_flight(rows[0].threads if run.threads is None else None, rows[0].streams)
    return _Lead(
        tuple(row for row in rows if name(row, run) in winners),
        tuple(each.removesuffix(flight).rstrip() for each in winners),
        setting,
        None if rival is None else rival.removesuffix(flight).rstrip(),
        None if rival is None else ratios.get(rival),
        best,
    )


def _clauses(leads: Sequence[_Lead]) -> list[str]:
    """One clause for each set of winners over the same rival, with the settings at which they
    win.
    """
    alike: dict[tuple[tuple[str, ...], str | None], list[_Lead]] = {}
    for lead in leads:
        alike.setdefault((lead.winners, lead.rival), []).append(lead)
    return [_clause(winners, rival, group) for (winners, rival), group in alike.items()]


def _clause(winners: tuple[str, ...], rival: str | None, leads: Sequence[_Lead]) -> str:
    settings = [lead.setting for lead in leads]
    at = f"at {len(settings)} settings"
    if len(settings) <= _MOST_NAMED:
        at = f"at {_joined(settings)}".replace("and batch ", "and ").replace(", batch ", ", ")
    if rival in winners:
        return f"{_joined(winners)} cannot be told apart {at}"
    fastest = f"{_joined(winners)} is the fastest {at}"
    if len(winners) > 1:
        fastest = f"{_joined(winners)} are the fastest {at}, not told apart"
    known = {lead.setting: lead.ratio for lead in leads if lead.ratio is not None}
    ratios = [*known.values()]
    if not ratios:
        return fastest
    if len(ratios) == 1:
        (ratio,) = ratios
        times = f"{ratio.estimate:.2f}x {rival} (95 % interval {ratio.low:.2f} to {ratio.high:.2f})"
    elif len(ratios) <= _MOST_NAMED:
        times = ", ".join(f"{ratio.estimate:.2f}x at {at}" for at, ratio in known.items())
        return f"{fastest.removesuffix(f' {at}').replace(f' {at},', ',')}: {times}, over {rival}"
    else:
        low, high = min(r.estimate for r in ratios), max(r.estimate for r in ratios)
        times = f"{low:.2f}x to {high:.2f}x {rival}"
    return f"{fastest}: {times}"


def _joined(names: Sequence[str]) -> str:
    if len(names) > _MOST_NAMED:
        names = [*names[: _MOST_NAMED - 1], f"{len(names) - _MOST_NAMED + 1} others"]
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
