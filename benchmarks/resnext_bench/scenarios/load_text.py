"""A row under load in words."""

from __future__ import annotations

import math

from .load_record import LoadRecord, Probe, more_requests, number
from .loadgen_record import LoadGenRecord


def load_lines(record: LoadRecord) -> tuple[str, ...]:
    """One line for each load, and one for the result of a search."""
    if not record.searched:
        cut = f", ended early: {record.cut}" if record.cut else ""
        return tuple(f"{_line(probe, record.slo_ns)}{cut}" for probe in record.probes)
    lines = [verdict_line(record)]
    lines += [_line(probe, record.slo_ns) for probe in record.probes]
    return tuple(lines)


def loadgen_line(record: LoadGenRecord) -> str:
    """LoadGen's verdict and figures."""
    parts = [f"LoadGen run, {record.scenario}: {record.result}"]
    if record.target_per_s is not None:
        parts.append(
            f"{record.target_per_s:.4g} queries/s, target {(record.slo_ns or 0) / 1e6:g} ms"
        )
    if record.images_per_s is not None:
        parts.append(f"{record.samples_per_s:.4g} samples/s ({record.images_per_s:.4g} images/s)")
    for name in ("p50", "p90", "p99"):
        if (ns := record.percentiles_ns.get(name)) is not None:
            parts.append(f"{name} {ns / 1e6:.3g} ms")
    return f"{', '.join(parts)}; {record.queries} queries; not an MLPerf result"


def verdict_line(record: LoadRecord) -> str:
    """Whether the SLO is met, or up to which rate; "" without an SLO."""
    if record.slo_ns is None:
        return ""
    slo = f"{record.slo_ns / 1e6:g} ms at p99"
    if not record.searched:
        probe = record.probes[-1]
        if probe.verdict != "cannot tell":
            return f"{slo}: {(probe.verdict or '').upper()}"
        more = more_requests(probe.over_slo or 0, probe.requests)
        needed = "" if more is None else f"; about {more} more requests would tell"
        return (
            f"{slo}: CANNOT TELL, {probe.over_slo} of {probe.requests} requests were above it"
            f"{needed}"
        )
    ended = f" (ended early, {record.cut})" if record.cut else ""
    if record.largest_per_s is None:
        met = [one.offered_per_s or 0.0 for one in record.probes if one.verdict == "met"]
        if record.cut and met and max(met) < (record.missed_per_s or math.inf):
            return f"{number(max(met))}/s met {slo} once, and was not confirmed{ended}"
        tried = min((probe.offered_per_s or 0 for probe in record.probes), default=0.0)
        return f"no rate from {number(tried)}/s on was shown to meet {slo}{ended}"
    above = "" if record.missed_per_s is None else f"; {number(record.missed_per_s)}/s does not"
    return f"largest rate that meets {slo}: {number(record.largest_per_s)}/s{above}{ended}"


def _line(probe: Probe, slo_ns: int | None) -> str:
    def ms(ns: float | None) -> str:
        return "n/a" if ns is None else f"{number(ns / 1e6, 3)} ms"

    parts = [
        f"{probe.label}: {number(probe.answered_per_s)}/s answered"
        f" ({number(probe.images_per_s)} images/s)",
        f"p50 {ms(probe.p50_ns)}, p90 at most {ms(probe.p90_ns)}, p99 at most {ms(probe.p99_ns)}",
        f"of {probe.requests} requests",
        f"workers {probe.busy:.0%} busy",
    ]
    if probe.dropped:
        parts.append(f"{probe.dropped} dropped")
    if probe.serves_per_s is not None:
        parts.append("cannot be served")
    if slo_ns is not None and probe.verdict is not None:
        parts.append(f"{slo_ns / 1e6:g} ms {probe.verdict}")
    if probe.wrong:
        parts.append("wrong outputs")
    if probe.disturbed:
        parts.append(f"disturbed: {', '.join(probe.disturbed)}")
    return ", ".join(parts)
