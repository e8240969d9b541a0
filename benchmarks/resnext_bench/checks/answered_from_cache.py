"""# answered-from-cache

A served model's answers came from the server's response cache: the timed runs send the same batch
again and again, so the network was not run for them. The times are those of a lookup.

What to do: switch the cache off (`response_cache { enable: false }` in the model's configuration),
and measure again.
"""

from __future__ import annotations

from collections.abc import Iterator

from resnext.findings import Finding

from .evidence import Evidence

CODE = "answered-from-cache"


def findings(evidence: Evidence) -> Iterator[Finding]:
    """One if a cache answered a request of the timed rounds."""
    served = evidence.served
    if served is not None and served.times is not None and served.times.cached > 0:
        times = served.times
        yield Finding(
            CODE,
            f"the server answered {times.cached} of {times.requests} requests from its cache,"
            " without the network",
            "switch off response_cache in the model's configuration",
        )
