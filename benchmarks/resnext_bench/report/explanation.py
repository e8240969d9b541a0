"""What the columns, intervals and verdicts of a run mean."""

from __future__ import annotations

import re

from resnext_bench.checks.registry import CHECKS
from resnext_bench.record import RunRecord

from .columns import ACCURACY, COLUMNS, DROPPED_FIRST, columns
from .sections import measuring

_COLD = "the caches are emptied before each run; never compared with hot times"
_STREAMS = "requests in flight at once; the median is of one request, images/s is streams x batch"


def legend(run: RunRecord) -> str:
    """Meaning of the columns of ``run``, in one paragraph."""
    return ". ".join(f"{heading}: {text}" for heading, text in _meanings(run).items()) + "."


def _meanings(run: RunRecord) -> dict[str, str]:
    meanings = {column.heading: column.meaning for column in columns(run)}
    if run.unknown:
        for heading in ("max error", "top-1"):
            meanings[heading] = meanings[heading].replace(
                "float64 PyTorch", "the file itself in float64"
            )
        meanings["n/a"] = f"the network is not known, only its graph; {run.unknown}"
    if any(timing.cache == "cold" for row in run.rows for timing in row.timings):
        meanings["cold"] = _COLD
    if any(row.streams > 1 for row in run.rows):
        meanings["streams"] = _STREAMS
    return meanings


def explanation(run: RunRecord | None = None) -> list[str]:
    """Columns, intervals, noise floor and validity, one line for each.

    Args:
        run: explain what is in it, the findings with their remedies; None explains everything.
    """
    if run is None:
        meanings = {column.heading: column.meaning for column in (*COLUMNS, *ACCURACY)}
        meanings |= {"cold": _COLD, "streams": _STREAMS}
    else:
        meanings = _meanings(run)
    lines = ["COLUMNS", *(f"{heading}: {text}" for heading, text in meanings.items())]
    lines.append(
        "On a narrow terminal columns are left out, first those without a value, then in this"
        f" order: {', '.join(DROPPED_FIRST)}. time stays if the rows have several."
    )
    lines += [
        "",
        "INTERVALS AND NOISE",
        "Rows take turns in rounds, and the median of a round stands for it: the 95 % intervals are"
        " those of Wilcoxon's signed-rank test over the undisturbed rounds, six at least.",
        "A speedup is estimated from the ratios within the rounds that were undisturbed for both"
        " rows. The first line calls rows equally fast if the interval of their ratio is not"
        " beyond the noise floor. The fastest rows are bold.",
        "noise floor: the first row is measured twice under two names; the larger of half the width"
        " of the interval of their ratio and its distance from 1. Above the precision target no"
        " speedup is shown.",
        "harness: what timing itself adds to a run, measured on a session that does nothing.",
    ]
    if run is not None:
        lines += measuring(run)
        lines += [f"reused {line}" for line in run.reused]
    codes = dict.fromkeys(
        finding.code for row in (() if run is None else run.rows) for finding in row.findings
    )
    if run is None or codes:
        lines += ["", "VALIDITY"]
        lines += [f"{code}: {_summary(code)}" for code in codes or CHECKS]
    hints = dict.fromkeys(
        f"{finding.code}: {finding.hint}"
        for row in (() if run is None else run.rows)
        for finding in row.findings
        if finding.hint
    )
    return [*lines, *(["", "WHAT TO DO", *hints] if hints else [])]


def _summary(code: str) -> str:
    """The first paragraph of the page of a check, in one line."""
    if code not in CHECKS:
        return "unknown to this version"
    _, paragraph, *_ = CHECKS[code].page.split("\n\n")
    return re.sub(r"`([^`]+)`", r"\1", " ".join(paragraph.split()))
