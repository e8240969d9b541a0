"""# shared-server

A warning: during the timed rounds of a served model, its server answered requests of other clients,
too. It may have batched them with those of the benchmark, and they took part of its time: the row's
times are those of a shared server. A server that does not count its requests cannot tell.

What to do: measure a server that nobody else uses, or take the times as those under that load.
"""

from __future__ import annotations

from collections.abc import Iterator

from resnext.findings import Finding

from .evidence import Evidence

CODE = "shared-server"


def findings(evidence: Evidence) -> Iterator[Finding]:
    """The warning, if the server answered more requests than were sent."""
    served = evidence.served
    if served is not None and served.times is not None and served.times.others > 0:
        times = served.times
        yield Finding(
            CODE,
            f"during the timed rounds the server also answered {times.others} requests of other"
            f" clients, besides {times.sent} of this row",
            "measure a server that nobody else uses",
            severity="warning",
        )
