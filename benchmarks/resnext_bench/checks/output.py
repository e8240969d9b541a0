"""# wrong-output

The output of the timed runs themselves is compared with float64 PyTorch. If it is outside the
parity gate of the row's precision, or was not compared, then the time is that of another function.
The finding names what failed: NaN, a shape, an error, swapped rows.

What to do: run `resnext-parity` on the artifact; export it again if that fails too. If only the
benchmark fails, then the runtime gives other results at this batch size or on this device.
"""

from __future__ import annotations

from collections.abc import Iterator

from resnext.findings import Finding

from .evidence import Evidence

CODE = "wrong-output"


def findings(evidence: Evidence) -> Iterator[Finding]:
    """One if the output is wrong or unknown."""
    if evidence.parity is None:
        yield Finding(CODE, "its output was not compared")
    elif not evidence.parity.passed:
        yield Finding(CODE, f"wrong output: {'; '.join(evidence.parity.failures)}")
