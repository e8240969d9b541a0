"""The exact commands that make a candidate again, measure it and run it."""

from __future__ import annotations

import shlex
from typing import NamedTuple

from .record import CandidateRecord, TuneRecord

#: The purpose of the last command.
RUN = "run it"
#: That of the first, for widths that a search timed and a command only names.
BUILD_TIMED = "build it again, with the same graph and weights; its metadata omit the timing"


class Command(NamedTuple):
    """One command.

    Attributes:
        purpose: a few words.
        text: to paste into a shell.
    """

    purpose: str
    text: str


def commands(record: TuneRecord, one: CandidateRecord) -> list[Command]:
    """Those of ``one`` that are known, in the order of use. The pick is in the folder that the
    search wrote; others have to be built first.
    """
    built = _output(one.export_command)
    folder = (_output(record.command) if one.name == record.pick else "") or built
    found = []
    if one.export_command:
        timed = one.merge_groups == "auto"
        purpose = BUILD_TIMED if timed else "build it again"
        found.append(Command(purpose, shlex.join(one.export_command)))
    if one.bench_command:
        words = [folder if word == built else word for word in one.bench_command]
        found.append(Command("measure it", shlex.join(words)))
    if folder:
        words = ["resnext-classify", "photo.jpg", "--artifact", folder, "--backend", one.backend]
        found.append(Command(RUN, shlex.join(words)))
    return found


def on_front(record: TuneRecord) -> list[CandidateRecord]:
    """The pick, then the other points of the front."""
    pick = [one for one in record.candidates if one.name == record.pick]
    return pick + [one for one in record.candidates if one.on_front and one.name != record.pick]


def _output(command: tuple[str, ...]) -> str:
    """The folder that an export writes; "" if it does not say."""
    for index, word in enumerate(command):
        if word == "--output":
            return "".join(command[index + 1 : index + 2])
        if word.startswith("--output="):
            return word.partition("=")[2]
    return ""
