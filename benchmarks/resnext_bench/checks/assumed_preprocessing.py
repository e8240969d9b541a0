"""# assumed-preprocessing

A warning, which does not make a row invalid: the row's accuracy was measured with a preprocessing
that nobody vouches for. The checkpoint does not say how a picture becomes the network's input, and
neither did the user, so ImageNet's usual values were used. If the network was trained with others,
its accuracy is too low, the reference's as well.

What to do: pass what it was trained with (`--resize` or `--crop`, `--interpolation`, `--mean`,
`--std`, or `--preprocessing FILE`), or export the artifact with it.
"""

from __future__ import annotations

from collections.abc import Iterator

from resnext.findings import Finding
from resnext.verify.assumed import CODE as CODE

from .evidence import Evidence


def findings(evidence: Evidence) -> Iterator[Finding]:
    """The warning, if the row has an accuracy that it concerns."""
    if evidence.accuracy is not None:
        yield from (caveat for caveat in evidence.caveats if caveat.code == CODE)
