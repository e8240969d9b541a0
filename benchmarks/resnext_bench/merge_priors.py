"""What merged groups gained elsewhere, by kind of processor, runtime and precision: which widths a
search tries first. A prior, never a verdict: another machine of the kind may differ.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from resnext.machine.environment import widest
from resnext.precision import Precision
from resnext.timing.change import MARGIN

#: Images in one run of what was measured.
BATCH = 8
#: How many times as fast: the estimate and its 95 % interval; None if the interval is not known.
Gain: TypeAlias = tuple[float, float | None, float | None]


@dataclass(frozen=True)
class Prior:
    """What was measured on one machine, of ResNeXt-50 32x4d at `BATCH` images.

    Attributes:
        processor: its widest vector extension, as `widest` names it.
        backend: registry name.
        precision: of weights and activations.
        gains: how many times as fast as unmerged, by the width of all groups in channels.
        stages: the same for one stage alone, as ``--merge-groups`` takes it: ``layer1=16``.
        machine: in words.
        day: of the run; the month, if that is all that is known.
        run: file in ``benchmarks/results/`` that it was taken from; "" if no run was stored.
    """

    processor: str
    backend: str
    precision: Precision
    gains: Mapping[int, Gain]
    machine: str
    day: str
    run: str = ""
    stages: Mapping[str, Gain] = field(default_factory=dict)

    @property
    def width(self) -> int | None:
        """The narrowest width that is as fast as the fastest within the margin; None if none was
        faster than unmerged groups.
        """
        paid = {width: gain[0] for width, gain in self.gains.items() if _pays(gain)}
        least = max(paid.values(), default=0.0) / (1 + MARGIN)
        return min((width for width, gain in paid.items() if gain >= least), default=None)

    @property
    def result(self) -> str:
        """What merging made of it: ``1.38 times as fast with 32 channels a group``, or
        ``no faster``, with what each width gave.
        """
        if self.width is not None:
            gain = self.gains[self.width][0]
            return f"{gain:.2f} times as fast with {self.width} channels a group"
        each = [f"{gain[0]:.2f} with {width}" for width, gain in self.gains.items()]
        return f"no faster ({', '.join(each)} channels a group)"

    @property
    def where(self) -> str:
        """Machine and day."""
        return f"{self.machine}, {self.day}"


_EPYC = "a 2-core EPYC with AVX-512 VNNI"
_XEON = "a 2-core Xeon with AMX"

#: By processor, the rows of each in the order of runtimes and precisions.
PRIORS: tuple[Prior, ...] = (
    Prior(
        "avx512_vnni",
        "ort-cpu",
        "int8",
        {32: (1.38, 1.32, 1.41)},
        _EPYC,
        "2026-11-23",
        "2026-11-23-epyc-25-17-vnni-2cores-resnext50-int8.json",
    ),
    Prior(
        "avx512_vnni",
        "openvino",
        "int8",
        {16: (1.00, 0.99, 1.02), 32: (0.91, 0.89, 0.92), 64: (0.82, 0.81, 0.83)},
        _EPYC,
        "2026-11-28",
        "2026-11-28-epyc-25-17-vnni-2cores-resnext50-openvino-int8-merged.json",
        {
            "layer1=8": (1.00, 0.99, 1.02),
            "layer1=16": (1.00, 0.99, 1.02),
            "layer1=32": (0.97, 0.95, 0.98),
            "layer2=16": (1.00, 0.99, 1.01),
            "layer2=32": (0.97, 0.96, 0.98),
            "layer3=32": (0.97, 0.95, 0.98),
        },
    ),
    # Tenth percentiles of interleaved turns: 36.6 ms, and merged 31.3, 31.5, 31.3.
    Prior(
        "amx_int8",
        "openvino",
        "int8",
        {16: (1.17, None, None), 32: (1.16, None, None), 64: (1.17, None, None)},
        _XEON,
        "November 2026",
    ),
)
_BY_KIND: Mapping[tuple[str | None, str, Precision], Prior] = {
    (each.processor, each.backend, each.precision): each for each in PRIORS
}


def prior_of(features: Collection[str], backend: str, precision: Precision) -> Prior | None:
    """What is known of a processor with ``features``, on a runtime at a precision; None if nothing
    is.
    """
    return _BY_KIND.get((widest(features), backend, precision))


def _pays(gain: Gain) -> bool:
    """Whether it is faster by more than the margin, as far as is known."""
    estimate, low, _ = gain
    return (estimate if low is None else low) > 1 + MARGIN
