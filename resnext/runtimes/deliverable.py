"""Precisions that a runtime takes and does not compute in on this machine, known before anything is
built.

A session finds out as well, and refuses or reports it: this saves the build.
"""

from __future__ import annotations

import platform

from resnext.findings import Finding
from resnext.precision import HALVES, Precision

from .registry import RUNTIMES

_CODE = "not-delivered"
_X86 = ("x86_64", "AMD64")


def not_delivered(name: str, precision: Precision) -> Finding | None:
    """Why runtime ``name`` would not compute in ``precision`` here; None if nothing is known
    against it.

    Args:
        name: a key of `RUNTIMES`, available here.
        precision: of weights and activations.
    """
    runtime = RUNTIMES[name]
    if precision not in HALVES or runtime.devices != ("cpu",):
        return None
    if runtime.module == "ort" and precision == "fp16" and platform.machine() in _X86:
        return Finding(
            _CODE,
            f"{name} computes fp16 convolutions in float32 on an x86 processor",
            "use `precision` fp32",
        )
    if runtime.module == "openvino":
        from .openvino.library import fast_types

        if precision.upper() not in fast_types():
            return Finding(
                _CODE,
                f"this processor has no {precision} instructions, and {name} computes in another"
                " precision without them",
                "use `precision` fp32",
            )
    return None
