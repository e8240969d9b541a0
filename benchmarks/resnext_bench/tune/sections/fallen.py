"""Why candidates fell, those with the same reason together."""

from __future__ import annotations

from resnext_bench.page.document import Section
from resnext_bench.page.entries import prose
from resnext_bench.page.markup import tag
from resnext_bench.tune.fallen import heading, reasons
from resnext_bench.tune.record import TuneRecord


def section(record: TuneRecord) -> Section | None:
    """The reasons; None if no candidate fell."""
    lines = reasons(record)
    if not lines:
        return None
    body = tag("ul", *(tag("li", prose(line)) for line in lines), class_="findings")
    return Section("fallen", heading(record), body)
