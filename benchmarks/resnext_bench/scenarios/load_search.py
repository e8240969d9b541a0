"""Searches the largest rate that meets an SLO."""

from __future__ import annotations

from collections.abc import Callable

from .load_record import LoadRecord, Probe

#: The search ends when the smallest rate that misses is this much above the largest that meets.
CLOSE = 1.02
_FIRST = 0.7
#: Step up while every rate meets the SLO, and down while none does.
_UP, _DOWN = 1.25, 0.5
#: Probes after which it ends, how many of them are kept for confirming, and the smallest rate that
#: is tried, as a share of the service rate.
_MOST_PROBES, _TO_CONFIRM, _LEAST = 16, 3, 0.02


def search(
    probe: Callable[[float, int], Probe | None],
    service_rate: float,
    slo_ns: int,
    over: Callable[[], bool] = lambda: False,
    say: Callable[[str, float], None] = lambda _, __: None,
) -> LoadRecord:
    """Bisect the rate, and confirm the result with a second probe of other arrivals; a rate that
    fails then counts as missed, and the search goes on below it.

    Args:
        probe: loads at a rate, requests a second; the second argument is the probe's number. None
            if time was up before its end.
        service_rate: requests a second that back-to-back runs reached; where to begin.
        slo_ns: nanoseconds.
        over: asked before each probe; the search ends with what it has once it is true.
        say: called with a line and the rate before each probe.
    """
    met: list[float] = []
    high: float | None = None
    probes: list[Probe] = []
    confirmed, cut = False, ""
    while not confirmed:
        hurry = len(probes) >= _MOST_PROBES - _TO_CONFIRM
        rate, confirming = _next(met, high, service_rate, hurry=hurry)
        if rate < _LEAST * service_rate:
            break
        if over():
            cut = "time was up"
            break
        if len(probes) == _MOST_PROBES:
            cut = f"{_MOST_PROBES} rates were tried"
            break
        say(f"{'confirming' if confirming else 'trying'} {rate:.4g}/s", rate)
        tried = probe(rate, len(probes))
        if tried is None:
            cut = "time was up"
            break
        probes.append(tried)
        if probes[-1].verdict == "met":
            confirmed = confirming
            met = sorted({*met, rate})
        else:
            high = rate if high is None else min(high, rate)
            met = [one for one in met if one < high]
    return LoadRecord(
        load="poisson",
        slo_ns=slo_ns,
        probes=tuple(probes),
        largest_per_s=met[-1] if confirmed else None,
        missed_per_s=high,
        cut=cut,
    )


def _next(
    met: list[float], high: float | None, service_rate: float, *, hurry: bool
) -> tuple[float, bool]:
    """The rate to try, and whether it is tried again to confirm it: in a ``hurry`` also while the
    interval is wide.
    """
    if hurry and met:
        return met[-1], True
    if high is None:
        return (met[-1] * _UP if met else _FIRST * service_rate), False
    if not met:
        return high * _DOWN, False
    if high <= met[-1] * CLOSE:
        return met[-1], True
    return (met[-1] * high) ** 0.5, False
