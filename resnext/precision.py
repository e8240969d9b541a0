"""Precisions: one row each, with everything the toolkit needs to know about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from types import MappingProxyType
from typing import Literal, get_args

from resnext.errors import UnknownName

#: Precision of weights and activations.
Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]

#: Gates by name: what each allows, as a multiple of the default's errors. None allows NaN.
PRESETS: Mapping[str, float] = MappingProxyType({"strict": 0.5, "default": 1.0, "loose": 4.0})


@dataclass(frozen=True)
class Gate:
    """Acceptance limits for one precision.

    The loss of a precision is the error of its baseline: eager PyTorch at the same precision, or a
    quantized network's own graph.

    Attributes:
        max_error: largest absolute difference, relative to the RMS of the reference: a safety net
            under the ratios, and the only limit if there is no baseline.
        min_cosine: smallest cosine of any row with its reference row.
        min_top1: smallest share of rows with the same top-1 class as the reference.
        max_error_ratio: largest ``max_error`` as a multiple of the precision's loss.
        max_mean_ratio: largest mean error as a multiple of the precision's mean error. Means are
            steadier than maxima, so this is the sharper limit for faults in many logits.
        name: key in `PRESETS`; ``custom`` for other limits.
    """

    max_error: float
    min_cosine: float
    min_top1: float
    max_error_ratio: float
    max_mean_ratio: float = inf
    name: str = "custom"

    def at(self, preset: str) -> Gate:
        """These limits with all errors allowed `PRESETS` times as much.

        Raises:
            UnknownName: no such preset.
        """
        if preset not in PRESETS:
            raise UnknownName("gate", preset, PRESETS)
        factor = PRESETS[preset]
        return replace(
            self,
            max_error=self.max_error * factor,
            # 1 - cosine grows with the square; what is orthogonal is another function
            min_cosine=max(0.5, 1 - (1 - self.min_cosine) * factor**2),
            max_error_ratio=self.max_error_ratio * factor,
            max_mean_ratio=self.max_mean_ratio * factor,
            name=preset,
        )


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
        least_opset: first ONNX opset with the operators in this type: bfloat16 convolutions and
            pooling, Q/DQ nodes with float8.
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
    least_opset: int = 13

    @property
    def half(self) -> bool:
        """Two bytes per value: fp16 and bf16."""
        return self.lowered_to == self.name

    @property
    def width_bytes(self) -> int:
        """Bytes per value of weights and activations."""
        return 1 if self.calibrated else 2 if self.half else 4


# The ratios are the gate; the absolute limits only catch nonsense, and cosine and top-1 name it.
# Measured on sound files against float64: 28 seeded images of digits, Fashion-MNIST and seeded
# ResNeXt-50, 8 of seeded ResNeXt-101 32x8d, on ONNX Runtime, OpenVINO, folded and compiled PyTorch
# and the reference evaluator (AVX-512 and AMX, no GPU):
#
#           loss (max, over RMS)    ratio, seven or more images    ratio of the means
#   fp32    5e-7 to 1e-5            0.8 to 1.6                     0.8 to 2.1
#   fp16    2e-3 to 2e-2            0.5 to 1.2                     0.5 to 1.0
#   bf16    1e-2 to 2e-1            0.7 to 1.1                     0.7 to 1.1
#   int8    6e-2 to 1e-1            1.0 to 1.2                     0.9 to 1.0
#
# The limits leave at least twice that, for other processors and GPUs. fp32's ratios are over a loss
# of at least four roundings, below which shallow networks are lucky or not (`resnext.verify`).
# TF32 rounds to the same 10 bits of mantissa as fp16. int8 and fp8 lose most on untrained networks;
# the loss is that of the same scheme calibrated on the very images that are compared, or for a
# runtime, that of the file computed node by node as ONNX defines it
# (`resnext.runtimes.onnx_reference`).
_FP32 = Gate(1e-4, 0.999999, 1.0, max_error_ratio=5.0, max_mean_ratio=5.0, name="default")
_TEN_BITS = Gate(5e-2, 0.9995, 0.9, max_error_ratio=4.0, max_mean_ratio=3.0, name="default")
_SEVEN_BITS = Gate(0.4, 0.995, 0.75, max_error_ratio=4.0, max_mean_ratio=3.0, name="default")
_EIGHT_BIT_TYPES = Gate(2.0, 0.9, 0.25, max_error_ratio=4.0, max_mean_ratio=3.0, name="default")

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
        least_opset=22,
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
        least_opset=19,
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
