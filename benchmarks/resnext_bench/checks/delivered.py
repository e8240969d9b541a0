"""# precision-not-delivered

Every convolution and the classifier must have computed in the requested precision, weighted by
their multiply-accumulates: a runtime that silently computes a layer in another type is measured for
another computation. A layer that the runtime does not report counts as not delivered. Layers that
the artifact itself leaves at a wider type (its manifest lists them with the reasons) do not count.

Of an ONNX file from elsewhere the network is not known: the layers that the runtime reports are
counted instead, and for a quantized one it is a warning, since nobody wrote down what it leaves.

A runtime that reports no layers at all is believed at fp32 only, and only if the output passes:
nothing less precise passes the fp32 gate. Of a served model, whose server never tells, any other
precision is a warning.

What to do: use a runtime that supports the precision; for a quantized file, export it with the Q/DQ
scheme of the runtime that it is to run on.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import floor

from resnext.findings import Finding
from resnext.precision import NUMERICS
from resnext.runtimes.session import SERVED
from resnext.verify.delivered import delivered_share, undelivered

from .evidence import Evidence

CODE = "precision-not-delivered"
#: Number of layers that a finding names.
_EXAMPLES = 3


def findings(evidence: Evidence) -> Iterator[Finding]:
    """One if a layer does not compute in the requested precision."""
    precision, config, delivered = evidence.numerics, evidence.config, evidence.delivered
    accepted = NUMERICS[precision].compute_dtypes
    missing = [
        (module, dtype)
        for module, dtype in undelivered(delivered, config, accepted[0])
        if dtype not in accepted and module not in evidence.skipped
    ]
    if not missing:
        return
    if delivered.device == SERVED:
        if precision != "fp32" or evidence.parity is None or not evidence.parity.passed:
            yield Finding(
                CODE,
                f"{precision} asked for, and a server does not tell what its layers got",
                "measure the artifact on a runtime of this machine as well",
                severity="warning",
            )
        return
    hint = ""
    if evidence.scheme is not None:
        hint = f"the file has the Q/DQ scheme for {evidence.scheme}: export it for this runtime"
    if {dtype for _, dtype in missing} == {"unknown"}:
        # TensorRT inside ONNX Runtime shows no layers.
        if precision == "fp32" and evidence.parity is not None and evidence.parity.passed:
            return
        yield Finding(
            CODE,
            f"{precision} asked for, and this runtime does not tell what its layers got",
            hint or "the runtime trt does",
        )
        return
    # What a file from elsewhere leaves at a wider type, nobody wrote down.
    left = config is None and NUMERICS[precision].calibrated
    share = sum(delivered_share(delivered, config, dtype) for dtype in accepted)
    share_percent = floor(1000 * share) / 10  # never up: 99.95 % is not 100 %
    examples = ", ".join(f"{module} {dtype}" for module, dtype in missing[:_EXAMPLES])
    more = f" and {len(missing) - _EXAMPLES} more" if len(missing) > _EXAMPLES else ""
    yield Finding(
        CODE,
        f"{precision} asked for, but only {share_percent} % of convolution and product FLOPs got "
        f"{' or '.join(accepted)}: {examples}{more}",
        hint,
        severity="warning" if left else "refused",
    )
