"""The command that made the run, and one for each row."""

from __future__ import annotations

import shlex

from resnext_bench.page.document import Section
from resnext_bench.page.entries import Entry, entries
from resnext_bench.page.markup import join, tag
from resnext_bench.record import RunRecord

#: Options with a value that the command of one row does not need, or that it replaces.
_REPLACED = (
    *("--json", "--markdown", "--html", "--junit"),
    *("--backend", "--batch", "--threads", "--streams", "--precision", "--merge-groups"),
)


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
    """The command for one row; "" if it cannot be told, since the run names several artifacts."""
    row, command, kept = entry.row, iter(run.command), []
    if row.variant and any(part.split("=")[0] == "--artifact" for part in run.command):
        return ""
    for part in command:
        name, _, value = part.partition("=")
        if name not in _REPLACED:
            kept.append(part)
        elif not value:
            next(command, None)
    kept += ["--backend", row.backend, "--batch", str(row.batch)]
    if row.precision is not None:
        kept += ["--precision", row.precision]
    if "merged " in row.variant:
        kept += ["--merge-groups", row.variant.rpartition("merged ")[2]]
    if run.threads is None and row.threads is not None:
        kept += ["--threads", str(row.threads)]
    if row.streams > 1:
        kept += ["--streams", str(row.streams)]
    return shlex.join(kept)
