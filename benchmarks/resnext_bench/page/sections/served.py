"""Served models: the client's time, taken apart by the server's counters."""

from __future__ import annotations

from resnext_bench.page.document import Section, table
from resnext_bench.page.entries import Entry, entries
from resnext_bench.record import RunRecord
from resnext_bench.report.served import UNKNOWN
from resnext_bench.served import ServedRecord

_HEADINGS = (
    *("row", "server", "artifact", "client ms", "server ms", "queue ms", "input ms"),
    *("inference ms", "output ms", "overhead ms", "images in a run"),
)


def section(run: RunRecord) -> Section | None:
    """A table; None if no server ran a row."""
    rows = [(one, one.row.served) for one in entries(run) if one.row.served is not None]
    if not rows:
        return None
    cells = [_cells(entry, served) for entry, served in rows]
    numbers = [entry.number for entry, _ in rows]
    body = table("Served models", _HEADINGS, cells, left=(0, 1, 2), numbers=numbers)
    note = (
        "Means of a request. The overhead is what the client waits for beyond the server: network,"
        f" serialization, HTTP or gRPC. Of a served model, {UNKNOWN}."
    )
    return Section("served", "Served models", body, note)


def _cells(entry: Entry, served: ServedRecord) -> list[str]:
    artifact = "same sha256" if served.confirmed else "not told"
    first = [entry.name, served.server, artifact]
    times = served.times
    if times is None:
        return [*first, *["not told"] * (len(_HEADINGS) - len(first))]
    parts = (
        *(times.client_ns, times.server_ns, times.queue_ns, times.input_ns),
        *(times.infer_ns, times.output_ns, times.overhead_ns),
    )
    batch = "-" if times.batch is None else f"{times.batch:.3g}"
    return [*first, *(f"{nanoseconds / 1e6:.3f}" for nanoseconds in parts), batch]
