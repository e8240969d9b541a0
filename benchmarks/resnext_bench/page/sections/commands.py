"""The command that made the run, and one for each row."""

from __future__ import annotations

import shlex

from resnext_bench.page.document import Section
from resnext_bench.page.entries import Entry, entries
from resnext_bench.page.markup import join, tag
from resnext_bench.record import RunRecord

#: Options with a value that the command of one row does not need.
_OUTPUTS = ("json", "markdown", "html", "junit")
#: Those that it replaces.
_AXES = ("backend", "batch", "threads", "streams", "precision", "merge_groups")


def section(run: RunRecord) -> Section | None:
    """The commands; None if the run does not say what made it."""
    if not run.command:
        return None
    whole = tag("pre", tag("code", shlex.join(run.command)), tabindex="0")
    each = [
        join(tag("dt", entry.name), tag("dd", tag("pre", tag("code", text), tabindex="0")))
        for entry in entries(run)
        if (text := row_command(run, entry))
    ]
    rows = tag("details", tag("summary", "For one row each"), tag("dl", *each)) if each else None
    return Section("commands", "Commands to repeat it", join(whole, rows))


def row_command(run: RunRecord, entry: Entry) -> str:
    """The command for one row; "" if it cannot be words, since the run names several artifacts."""
    row, command, kept = entry.row, iter(run.command), []
    if row.variant and any(_field(part) == "artifact" for part in run.command):
        return ""
    for part in command:
        if _field(part) not in (*_OUTPUTS, *_AXES):
            kept.append(part)
        elif "=" not in part:
            next(command, None)
    values = {
        "backend": row.backend,
        "batch": row.batch,
        "threads": row.threads if run.threads is None else None,
        "streams": row.streams if row.streams > 1 else None,
        "precision": row.precision,
        "merge_groups": row.variant.rpartition("merged ")[2] if "merged " in row.variant else None,
    }
    for name, value in values.items():
        if value is not None:
            kept += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(kept)


def _field(part: str) -> str:
    """The field whose flag ``part`` is; "" for another word."""
    name = part.partition("=")[0]
    return name[2:].replace("-", "_") if name.startswith("--") else ""
