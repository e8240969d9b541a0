"""Joules an image."""

from __future__ import annotations

from resnext_bench.page import marks
from resnext_bench.page.chart import Axis, Strip, strips
from resnext_bench.page.document import Section, paragraphs
from resnext_bench.page.entries import Entry, entries
from resnext_bench.page.markup import join
from resnext_bench.page.scales import Scale, linear, number
from resnext_bench.record import RunRecord
from resnext_bench.scenarios.energy_record import EnergyRecord, EnergyUse

_BAR = 9.0


def section(run: RunRecord) -> Section | None:
    """The bars, or why a machine's counters could not be read; None if it has none."""
    rows = [(one, one.row.energy) for one in entries(run) if one.row.energy is not None]
    counted = [(entry, energy) for entry, energy in rows if _uses(energy)]
    if not rows:
        return None
    if not counted:
        problems = (*rows[0][1].problems, *(use.reason for use in rows[0][1].uses if use.reason))
        words = "; ".join(dict.fromkeys(problems)) or "no reason was recorded"
        return Section("energy", "Energy", paragraphs(f"It could not be counted: {words}."))
    height = _BAR * max(len(_uses(energy)) for _, energy in counted)
    scale = linear([_joules(use) for _, energy in counted for use in _uses(energy)], zero=True)
    least, energy = min(counted, key=lambda row: sum(map(_joules, _uses(row[1]))))
    words = f"Least: {least.name}, {_text(energy)}."
    drawn = [_strip(entry, energy, scale) for entry, energy in counted]
    axis = Axis(scale, "joules an image")
    chart = strips("energy-chart", "Energy of each row", words, axis, drawn, height)
    methods = "; ".join(
        dict.fromkeys(f"{use.source}: {use.method}" for _, one in counted for use in _uses(one))
    )
    note = f"Everything that a source used in a pass apart from the timed rounds. {methods}."
    return Section("energy", "Energy", chart, note)


def _strip(entry: Entry, energy: EnergyRecord, scale: Scale) -> Strip:
    bars, hints = [], [entry.name]
    for index, use in enumerate(_uses(energy)):
        class_ = ("accent", "muted")[index % 2]
        bars.append(marks.bar(scale.fraction(_joules(use)), index * _BAR + 1, _BAR - 2, class_))
        above = "" if use.above_idle is None else f", {number(use.above_idle)} J above idle"
        hints.append(f"{use.source}: {number(_joules(use))} J an image{above}")
    return Strip(entry.name, _text(energy), join(*bars), entry.number, "\n".join(hints))


def _uses(energy: EnergyRecord) -> list[EnergyUse]:
    return [use for use in energy.uses if use.joules_per_image is not None]


def _joules(use: EnergyUse) -> float:
    return use.joules_per_image or 0.0


def _text(energy: EnergyRecord) -> str:
    return ", ".join(f"{number(_joules(use))} J {use.source}" for use in _uses(energy))
