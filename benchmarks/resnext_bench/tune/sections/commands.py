"""The exact commands: of the pick, of the other points of the front, and of the search."""

from __future__ import annotations

import shlex

from resnext_bench.page.document import Section
from resnext_bench.page.markup import Markup, join, tag
from resnext_bench.tune.commands import commands, on_front
from resnext_bench.tune.record import CandidateRecord, TuneRecord


def section(record: TuneRecord) -> Section | None:
    """The commands; None if none is known."""
    parts: list[Markup] = []
    for one in on_front(record):
        if found := _listed(record, one):
            picked = one.name == record.pick
            heading = tag("h3", one.name)
            parts.append(
                join(heading, found)
                if picked
                else tag("details", tag("summary", f"Also on the front: {one.name}"), found)
            )
    if record.command:
        parts.append(join(tag("h3", "The search"), _shell(shlex.join(record.command))))
    return Section("commands", "Commands", join(*parts)) if parts else None


def _listed(record: TuneRecord, one: CandidateRecord) -> Markup | None:
    items = [
        join(tag("dt", purpose.capitalize()), tag("dd", _shell(text)))
        for purpose, text in commands(record, one)
    ]
    return tag("dl", *items) if items else None


def _shell(text: str) -> Markup:
    return tag("pre", tag("code", text), tabindex="0")
