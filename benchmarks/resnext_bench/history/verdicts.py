"""What the gate says: a summary, the series that are not SAME, and what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from resnext.timing.change import WORST_FIRST, Verdict, describe

from .report import left_out, percent_of, place_of, title_of, too_few

if TYPE_CHECKING:
    from .record import HistoryRecord, SeriesRecord

#: Most series that a line names.
_MOST_NAMES = 4


class _Finding(NamedTuple):
    """One sentence about series of one machine and network."""

    verdict: Verdict
    series: tuple[SeriesRecord, ...]
    sentence: str
    named: bool = True

    def line(self, title: str = "") -> str:
        """The sentence with the names of the series, and ``title``."""
        if not self.named:
            return self.sentence if title else f"{len(self.series)} series: {self.sentence}"
        names = [str(each) for each in self.series[:_MOST_NAMES]]
        if more := len(self.series) - len(names):
            names.append(f"{more} more")
        return f"{', '.join(filter(None, (*names, title)))}: {self.sentence}"


def worst_verdict(history: HistoryRecord) -> Verdict:
    """The worst verdict of a series; a file that cannot be used counts as CANNOT TELL, and so does
    a history without series.
    """
    words = {each.verdict for each in history.series}
    if history.broken or not words:
        words.add("CANNOT TELL")
    return next(word for word in WORST_FIRST if word in words)


def verdicts(history: HistoryRecord) -> list[str]:
    """How many series have which verdict, and the worst of them; then what is said of those that
    are not SAME, under their machine and network, the worst first; then what was left out.
    """
    findings = sorted(_findings(history), key=_badness)
    first = [each for each in findings if each.verdict == worst_verdict(history)]
    under: dict[str, list[_Finding]] = {}
    others = findings if len(first) > 1 else findings[len(first) :]
    for finding in others:
        if finding.named:
            under.setdefault(title_of(finding.series[0]), []).append(finding)
    lines = [_summary(history, first)]
    for title, each in under.items():
        lines += [title, *(f"{finding.verdict}: {finding.line()}" for finding in each)]
    lines += [f"{each.verdict}: {each.line()}" for each in others if _is_few(each)]
    return lines + left_out(history)


def sentence(series: SeriesRecord, window: int) -> str:
    """What is said of one series.

    Args:
        series: of a history.
        window: of that history.
    """
    if series.change is None:
        if series.absent:
            return series.absent
        return too_few([series]) if series.more else f"no step in the newest {window} runs"
    recent = [step for step in series.steps if step.index >= len(series.points) - window]
    before = "the level before" + (f" these {len(recent)} steps" if len(recent) > 1 else "")
    newest = series.steps[-1]
    size = f" {percent_of(newest)[0]}," if len(recent) > 1 else ""
    parts = [
        describe(series.change, before, "the newest level", "runs"),
        f"Newest step:{size} {place_of(series, newest)}",
    ]
    return ". ".join(parts).replace("..", ".") + (f"; {series.absent}" if series.absent else "")


def _findings(history: HistoryRecord) -> list[_Finding]:
    alike: dict[tuple[str, ...], list[SeriesRecord]] = {}
    for series in history.series:
        if series.change is not None:
            kind: tuple[str, ...] = (title_of(series), str(series))
        elif series.absent:
            kind = (title_of(series), "", series.absent)
        else:
            kind = (series.verdict,)
        alike.setdefault(kind, []).append(series)
    findings = []
    for kind, several in alike.items():
        words = sentence(several[0], history.window)
        if kind == ("CANNOT TELL",):
            words = too_few(several)
        findings.append(_Finding(several[0].verdict, tuple(several), words, len(kind) > 1))
    return findings


def _is_few(finding: _Finding) -> bool:
    """Whether there are too few runs of these series."""
    return not finding.named and finding.verdict == "CANNOT TELL"


def _badness(finding: _Finding) -> tuple[int, float]:
    changes = [each.change for each in finding.series if each.change is not None]
    ratio = changes[0].ratio if changes else None
    return WORST_FIRST.index(finding.verdict), 0.0 if ratio is None else -ratio.estimate


def _summary(history: HistoryRecord, first: Sequence[_Finding]) -> str:
    words = [each.verdict for each in history.series]
    worst = worst_verdict(history)
    counts = [
        f"{words.count(word)} {word}" for word in WORST_FIRST if word != worst and word in words
    ]
    if not first:
        files = len(history.broken)
        reasons = (
            [f"{files} broken file{'s are' if files > 1 else ' is'} left out"] if files else []
        )
        reasons += [] if words else ["no row is valid"]
        return f"{worst}: {', '.join([*reasons, *counts])}"
    count = f"{words.count(worst)} of {len(words)} series"
    text = first[0].line(title_of(first[0].series[0]))
    if len(first) > 1:
        text = f"{'worst: ' * (worst == 'SLOWER')}{first[0].line()}"
    return f"{worst}: {', '.join([count, *counts])}; {text}"
