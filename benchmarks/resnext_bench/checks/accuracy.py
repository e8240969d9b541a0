"""# accuracy-lost

On labeled images, the row may lose at most one point of top-1 to float32 PyTorch, must agree with
its first class on 98 % of the images, and must give no NaN. The reference itself must be better
than one answer for all images, or the comparison proves nothing. A row is also not valid if
accuracy was requested and could not be measured.

What to do: calibrate on more or other images, keep sensitive layers at a wider type, or use a wider
precision.
"""

from __future__ import annotations

from collections.abc import Iterator

from resnext.findings import Finding
from resnext.verify.accuracy import accuracy_failures

from .evidence import Evidence

CODE = "accuracy-lost"


def findings(evidence: Evidence) -> Iterator[Finding]:
    """One for each limit that is exceeded, or if accuracy is missing."""
    if evidence.accuracy_missing:
        yield Finding(CODE, evidence.accuracy_missing)
    if evidence.accuracy is not None:
        for failure in accuracy_failures(evidence.accuracy):
            yield Finding(CODE, failure)
