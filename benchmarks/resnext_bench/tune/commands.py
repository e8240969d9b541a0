"""The exact commands that make a candidate again, measure it and run it."""

from __future__ import annotations

import shlex
from typing import NamedTuple

from .record import CandidateRecord, TuneRecord


class Command(NamedTuple):
    """One command.

    Attributes:
        purpose: a few words.
        text: to paste into a shell.
    """

    purpose: str
    text: str


def commands(one: CandidateRecord) -> list[Command]:
    """Those that are known, in the order of use."""
    found = []
    if one.export_command:
        found.append(Command("build it again", shlex.join(one.export_command)))
    if one.bench_command:
        found.append(Command("measure it", shlex.join(one.bench_command)))
    if folder := _output(one.export_command):
        words = ("resnext-classify", "photo.jpg", "--artifact", folder, "--backend", one.backend)
        found.append(Command("run it", shlex.join(words)))
    return found


def on_front(record: TuneRecord) -> list[CandidateRecord]:
    """The pick, then the other points of the front."""
    pick = [one for one in record.candidates if one.name == record.pick]
    return pick + [one for one in record.candidates if one.on_front and one.name != record.pick]


def _output(command: tuple[str, ...]) -> str:
    """The folder that an export writes; "" if it does not say."""
    for word, following in zip(command, (*command[1:], ""), strict=True):
        if word == "--output":
            return following
        if word.startswith("--output="):
            return word.partition("=")[2]
    return ""
