"""# batch-integrity

After the timed runs, the same batch runs again untimed: with its rows in other places, and with
other images in every other row. Each row must depend on its image alone, and the timed runs must
have given what an untimed run gives. All rows count. Differences up to the rounding of the row's
precision are allowed, or none if the same kernels computed the same row in the same place.

What to do: run `resnext-parity --batch-integrity` on the artifact, which examines other batch sizes
as well. If it fails there, the file or the runtime computes wrong batches: try another version of
the runtime, another batch size, or no CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterator

from resnext.findings import Finding

from .evidence import Evidence

CODE = "batch-integrity"


def findings(evidence: Evidence) -> Iterator[Finding]:
    """One for each broken law."""
    if evidence.integrity is not None:
        for failure in evidence.integrity.failures:
            yield Finding(CODE, f"its rows are not independent: {failure}")
