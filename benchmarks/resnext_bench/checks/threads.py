"""# thread-budget

All rows have the same number of CPU threads, or the number in their name: the thread budget, or
`threads`. A row is not valid if its runtime reports another number, or if the process used more CPU
time than its threads have: in the median round, more than a quarter of a processor beyond them.
Such a row would be compared with rows that had less of the machine.

The thread budget is the least of the physical cores, the affinity mask, the CPU quota of the
control group and `OMP_NUM_THREADS`. Rows on a GPU are not checked,
and the CPU time of a row with cold caches is not, since emptying them takes every processor.

What to do: find out which library ignores its number of threads (often OpenMP or a BLAS library
that something else in the process has started), or set `threads` to what it uses.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from resnext.findings import Finding
from resnext.runtimes.session import Delivered

from .evidence import Evidence

CODE = "thread-budget"
#: Processors that a process may use beyond its threads: the harness, and threads that wake up.
MOST_BEYOND = 0.25


def reported_threads(delivered: Delivered) -> int | None:
    """The number of CPU threads that the runtime reports; None if it does not."""
    note = delivered.notes.get("threads", "")
    return int(note) if note.isdigit() else None


def findings(evidence: Evidence) -> Iterator[Finding]:
    """One for another number of threads, and one for more CPU time than they have."""
    threads, actual = evidence.threads, reported_threads(evidence.delivered)
    if threads is None or evidence.delivered.device != "cpu":
        return
    if actual not in (None, threads):
        yield Finding(
            CODE,
            f"{threads} threads were requested, and the runtime uses {actual}",
            f"use `threads` {actual}",
        )
    if not evidence.samples.loads or evidence.samples.cache == "cold":
        return  # emptying the caches takes every processor
    used = statistics.median(load.own for load in evidence.samples.loads)
    if used > threads + MOST_BEYOND:
        yield Finding(
            CODE,
            f"the process used {used:.2f} processors during the timed runs, more than its {threads}"
            f" thread{'s' * (threads > 1)}",
            "stop other threads of this process, or set `threads` to what the runtime uses",
        )
