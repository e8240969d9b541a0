"""Human-readable lines on how an artifact's precision came about, from its manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resnext.artifact.manifest import Manifest


def counted(reasons: Iterable[str]) -> list[str]:
    """The number of skipped convolutions for each reason, in words."""
    return [
        f"{count} convolution{'s' * (count > 1)} ({reason})"
        for reason, count in Counter(reasons).items()
    ]


def model_line(manifest: Manifest) -> str:
    """Model, weights and precision."""
    model = manifest.model or ("not known" if manifest.foreign else "custom")
    return f"{model}, weights {manifest.weights.source}, {manifest.precision}"


def reference_of(manifest: Manifest) -> str:
    """What an artifact is compared with when it is made."""
    return "the ONNX file in float64" if manifest.foreign else "eager PyTorch"


def derivation(manifest: Manifest) -> list[str]:
    """Lines on ranges, calibration and merged groups; empty for a plain float32 artifact."""
    lines = []
    if (ranges := manifest.ranges) is not None:
        lines.append(
            f"ranges    at most {ranges.largest:.3g} ({ranges.layer}), {manifest.precision} holds"
            f" {ranges.limit:.3g} ({ranges.images} images)"
        )
    if (kept := manifest.kept) is not None:
        lines.append(f"float32   {', '.join(kept.layers)}: kept by request")
    if (quantized := manifest.quantization) is not None:
        lines.append(
            f"images    {quantized.images} of {quantized.source}, {quantized.method}; scheme for"
            f" {quantized.runtime}"
        )
        skipped = counted(reason for name, reason in quantized.left if name != "fc")
        lines.append(
            f"skipped   {', '.join([*skipped, 'the classifier'])}: not {manifest.precision}"
        )
        if quantized.means is not None:
            lines.append(f"corrected the biases of {len(quantized.means)} convolutions")
    if (equalized := manifest.equalized) is not None:
        moved = [each for exponents in equalized.exponents.values() for each in exponents.values()]
        lines.append(
            f"equalized {len(moved)} channels behind {len(equalized.exponents)} convolutions, by"
            f" factors up to {2 ** max(map(abs, moved))}"
            if moved
            else "equalized no channel: the ranges are even"
        )
    if (merged := manifest.merged) is not None:
        if not merged.groups:
            return [
                *lines,
                (
                    f"merged    none: no merge is faster on {merged.runtime} here, batch"
                    f" {merged.batch}"
                ),
            ]
        how = (
            ""
            if merged.speedup is None
            else f", {merged.speedup:.2f} times as fast on {merged.runtime}"
        )
        what = "convolution" + "s" * (len(merged.groups) > 1)
        lines.append(
            f"merged    {len(merged.groups)} {what}{how}; float64 differs by {merged.max_error:.0e}"
            " at most"
        )
    return lines
