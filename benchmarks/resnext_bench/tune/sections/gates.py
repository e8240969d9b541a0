"""What each candidate has, against what the gates allow."""

from __future__ import annotations

from resnext_bench.page.document import Section, table
from resnext_bench.page.markup import Markup, tag
from resnext_bench.tune import amounts
from resnext_bench.tune.record import CandidateRecord, GateRecord, TuneRecord

from .points import entries


def section(record: TuneRecord) -> Section | None:
    """A column for each gate; None without gates."""
    rows = [row for row in entries(record) if row.candidate.gates]
    if not record.gates or not rows:
        return None
    headings = ("candidate", *map(amounts.limit, record.gates))
    body = table(
        "Gates",
        headings,
        [[row.name, *(_cell(row.candidate, gate) for gate in record.gates)] for row in rows],
        numbers=[row.number for row in rows],
        sortable=True,
    )
    note = "A gate is a limit: no speed makes up for a miss, and what is not known does not pass."
    return Section("gates", "Gates", body, note)


def _cell(one: CandidateRecord, gate: GateRecord) -> Markup | str:
    found = next((each for each in one.gates if each.name == gate.name), None)
    if found is None:
        return "-"
    kind, sign = ("valid", "\u2713") if found.passed else ("invalid", "!")
    return tag("span", f"{amounts.actual(found)} {sign}", class_=f"status {kind}")
