"""# untrained-weights

A warning, which does not make a row invalid: the row is a quantized network of seeded weights.
Logits of such a network are close together, so rounding to 8 bits may change most first classes.
Its top-1 agreement says nothing about a trained network and is not shown. Times do not depend on
the weights and are valid.

What to do: benchmark trained weights (`--weights`) to judge accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator

from resnext.findings import Finding
from resnext.verify.untrained import CODE as CODE

from .evidence import Evidence


def findings(evidence: Evidence) -> Iterator[Finding]:
    """The warning, if it applies."""
    yield from (caveat for caveat in evidence.caveats if caveat.code == CODE)
