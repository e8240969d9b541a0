"""Precisions: one row each, with everything the toolkit needs to know about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

#: Precision of weights and activations.
Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]


@dataclass(frozen=True)
class Gate:
    """Acceptance limits for one precision.

    Attributes:
        max_error: largest absolute difference, relative to the RMS of the reference.
        min_cosine: smallest cosine of any row with its reference row.
        min_top1: smallest share of rows with the same top-1 class as the reference.
        max_error_ratio: largest ``max_error`` relative to the baseline's, if there is one: the
            error of eager PyTorch at the same precision, or of a quantized network's own graph.
    """

    max_error: float
    min_cosine: float
    min_top1: float
    max_error_ratio: float


@dataclass(frozen=True)
class Numerics:
    """One way to round: a precision, or TF32.

    Attributes:
        name: key in `NUMERICS`.
        weight_dtype: element type of stored weights, by NumPy's (ml_dtypes') name, which is also
            PyTorch's if it has the type.
        compute_dtypes: element types of a layer's computation that count as delivered.
        largest: largest finite value that an activation can have.
        gate: acceptance limits of parity.
        calibrated: activations need ranges from calibration images.
        eager_dtype: element type in which eager PyTorch shows the cost of this rounding; None for a
            quantized network, which is a converted file. TF32 has as many mantissa bits as
            float16, so float16 stands for it.
        wider: precisions to suggest if a value does not fit, narrowest first.
        lowered_to: half precision that a float32 graph is converted to; what is quantized besides
            is quantized afterwards. None: the rest stays float32.
        only_for: the one runtime that its graphs are laid out for; None if any will do.
        wide_groups: grouped convolutions of few channels cannot be quantized, so groups are merged
            before, not after.
    """

    name: str
    weight_dtype: str
    compute_dtypes: tuple[str, ...]
    largest: float
    gate: Gate
    eager_dtype: str | None = None
    calibrated: bool = False
    wider: tuple[Precision, ...] = ()
    lowered_to: Literal["fp16", "bf16"] | None = None
    only_for: Literal["trt"] | None = None
    wide_groups: bool = False

    @property
    def half(self) -> bool:
        """Two bytes per value: fp16 and bf16."""
        return self.lowered_to == self.name


# fp16 rounds a deep network's activations by up to 3e-2 of the logits (measured on seeded
# ResNeXt-50 to -152), so its sharp gate is the ratio to what eager PyTorch loses in fp16 on the
# same images. TF32 rounds to the same 10 bits of mantissa, bf16 to 7: 0.19 of seeded ResNeXt-101's
# logits (measured). int8 and fp8 error depends mostly on weights and images and is worst for
# untrained networks. Absolute limits only catch nonsense there; the real gate is the ratio: of a
# new file to the same scheme calibrated on the very images that are compared, of a runtime to the
# file computed node by node as ONNX defines it (`resnext.runtimes.onnx_reference`).
_FP32 = Gate(max_error=1e-4, min_cosine=0.999999, min_top1=1.0, max_error_ratio=50.0)
_TEN_BITS = Gate(max_error=5e-2, min_cosine=0.9995, min_top1=0.9, max_error_ratio=4.0)
_SEVEN_BITS = Gate(max_error=0.4, min_cosine=0.995, min_top1=0.75, max_error_ratio=4.0)
_EIGHT_BIT_TYPES = Gate(max_error=2.0, min_cosine=0.9, min_top1=0.25, max_error_ratio=4.0)

_ROWS = (
    Numerics("fp32", "float32", ("float32",), 3.4028234663852886e38, _FP32, "float32"),
    Numerics(
        "fp16",
        "float16",
        ("float16",),
        65504.0,
        _TEN_BITS,
        "float16",
        wider=("bf16", "fp32"),
        lowered_to="fp16",
    ),
    Numerics(
        "bf16",
        "bfloat16",
        ("bfloat16",),
        255 * 2.0**120,
        _SEVEN_BITS,
        "bfloat16",
        wider=("fp32",),
        lowered_to="bf16",
    ),
    Numerics("int8", "int8", ("int8", "uint8"), 127.0, _EIGHT_BIT_TYPES, calibrated=True),
    Numerics(
        "fp8",
        "float8_e4m3fn",
        ("float8_e4m3fn",),
        448.0,
        _EIGHT_BIT_TYPES,
        calibrated=True,
        lowered_to="fp16",
        only_for="trt",
        wide_groups=True,
    ),
)
#: A float32 engine that may round products to TF32: not a separate precision, but a wider gate.
_TF32 = Numerics("tf32", "float32", ("tfloat32", "float32"), _ROWS[0].largest, _TEN_BITS, "float16")

#: Every precision, the default first.
PRECISIONS: Mapping[Precision, Numerics] = MappingProxyType(
    dict(zip(get_args(Precision), _ROWS, strict=True))
)
#: What an export makes if no precision is requested; others are derived from it.
DEFAULT: Precision = next(iter(PRECISIONS))
#: Rows that parity is judged by (`Manifest.numerics`): every precision, and ``tf32``.
NUMERICS: Mapping[str, Numerics] = MappingProxyType({row.name: row for row in (*_ROWS, _TF32)})

#: Precisions that need calibration images.
QUANTIZED: tuple[Precision, ...] = tuple(n for n, row in PRECISIONS.items() if row.calibrated)
#: Two bytes per value.
HALVES: tuple[Precision, ...] = tuple(n for n, row in PRECISIONS.items() if row.half)
#: Precisions in which PyTorch runs a live model.
LIVE: tuple[Precision, ...] = tuple(n for n, row in PRECISIONS.items() if row.eager_dtype)
