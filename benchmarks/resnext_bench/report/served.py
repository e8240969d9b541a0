"""What is said of served models: the client's time, taken apart by the server's counters."""

from __future__ import annotations

from resnext_bench.record import Row, RunRecord
from resnext_bench.served import ServedRecord, ServerTimes

from .endurance import named

#: What of a served model nobody can see from here.
UNKNOWN = "its memory, threads, layers and cold start are the server's, and not known here"


def served_lines(run: RunRecord) -> list[str]:
    """Two lines for each row of a served model: where its time goes, and what is known of it."""
    lines = []
    for row in run.rows:
        if row.served is not None:
            lines += [f"{named(row, run)}: {text}" for text in (split(row.served), _known(row))]
    return lines


def split(served: ServedRecord) -> str:
    """The mean time of a request at the client: in the server, and beyond it."""
    times = served.times
    if times is None:
        return "the server does not count its time, so the client's overhead is not known"
    images = "" if times.batch is None else f"{times.batch:.3g}"
    batch = images and f"; {images} image{'s' * (images != '1')} in a run"
    return (
        f"{_ms(times.client_ns)} ms at the client = {_ms(times.server_ns)} ms in the server"
        f" ({parts(times)}) + {_ms(times.overhead_ns)} ms overhead of the client and the way"
        f" there{batch}"
    )


def parts(times: ServerTimes) -> str:
    """What the server's time consists of, milliseconds."""
    return ", ".join(
        f"{name} {_ms(nanoseconds)}"
        for name, nanoseconds in (
            ("queue", times.queue_ns),
            ("input", times.input_ns),
            ("inference", times.infer_ns),
            ("output", times.output_ns),
        )
    )


def _known(row: Row) -> str:
    assert row.served is not None
    file = (
        "the artifact's file, by its sha256" if row.served.confirmed else "a file it does not name"
    )
    form = row.notes.get("requests", "")
    return "; ".join(filter(None, (f"{row.served.server} runs {file}", form, UNKNOWN)))


def _ms(nanoseconds: float) -> str:
    return f"{nanoseconds / 1e6:.3f}"
