"""What the rules look at: network, machine, runtimes, weights, and what was measured before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias

from resnext.network.config import ResNeXtConfig
from resnext.network.layers import Layer
from resnext.precision import DEFAULT, PRECISIONS
from resnext_bench.limits.ceilings import MachineCeilings

from .stages import Stage, layers_of, stages_of

#: How a runtime gets to the arithmetic of a precision: with ``native`` instructions, by
#: ``converted`` operations around every one of its own, in ``float32`` whatever the file says, or
#: not at all (``refused``).
Way: TypeAlias = Literal["native", "emulated", "float32", "refused"]


@dataclass(frozen=True)
class Backend:
    """A runtime, as far as this network and machine are concerned.

    Attributes:
        name: registry name.
        device: ``cpu`` or ``cuda``.
        ways: how it gets to each precision that it runs.
        problem: why it cannot run here; "" if it can, or if it is asked about another machine.
        version: of the library; "" if it does not matter.
    """

    name: str
    device: Literal["cpu", "cuda"]
    ways: Mapping[str, Way]
    problem: str = ""
    version: str = ""

    @property
    def tensorrt(self) -> bool:
        """Whether TensorRT or TensorRT-RTX computes."""
        return "trt" in self.name

    @property
    def tensorrt11(self) -> bool:
        """Whether TensorRT 11 or later computes, or whichever will be installed."""
        major = self.version.partition(".")[0]
        return self.name == "trt" and (not major.isdigit() or int(major) >= 11)


@dataclass(frozen=True)
class Values:
    """What weights and activations predict.

    Attributes:
        refused: why an export to half precision would be refused for a weight, by precision.
        vanishing: layer in which the largest share of nonzero weights rounds to zero, and that
            share, by name of a grid: ``int8``, ``int8 in 7 bits``, ``fp8``.
        largest: name and size of the largest activation; None if no image was computed.
        images: seeded images that it was seen on.
    """

    refused: Mapping[str, str] = field(default_factory=dict)
    vanishing: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    largest: tuple[str, float] | None = None
    images: int = 0


@dataclass(frozen=True)
class Timed:
    """A row that was measured on this machine before.

    Attributes:
        run: what was measured in one go has the same: only its rows are compared.
        created: day.
        backend: registry name.
        precision: requested.
        merged: whether groups were merged; None if it is a user's artifact, which may be either.
        batch: images in one run.
        median_ns: median time of a run.
        low_ns: lower end of the median's interval; None if it is not known.
        high_ns: upper end.
        streams: requests in flight; the median is that of one.
        doubt: why the search that timed it is in doubt; "" if it is not.
    """

    run: str
    created: str
    backend: str
    precision: str
    merged: bool | None
    batch: int
    median_ns: float
    low_ns: float | None = None
    high_ns: float | None = None
    streams: int = 1
    doubt: str = ""


@dataclass(frozen=True)
class Seen:
    """Something that an earlier export, check or search found.

    Attributes:
        topic: precision that it is about, or ``merged groups``.
        text: one sentence.
        created: day.
        where: what says so.
        outlook: what it means; None if it is only good to know.
        source: ``measured`` on this machine, or only ``known``: a manifest names no machine.
        batch: images in one run of what was timed; None if nothing was.
    """

    topic: str
    text: str
    created: str
    where: str
    outlook: Literal["no use"] | None = None
    source: Literal["known", "measured"] = "measured"
    batch: int | None = None


@dataclass(frozen=True)
class Facts:
    """Everything that the rules look at.

    Attributes:
        config: the network.
        batch: images in one run.
        groups: number of groups of the convolutions whose groups are merged already.
        features: of the processor, in the kernel's names.
        gpu: name and compute capability of the GPU, which may be another machine's.
        backends: runtimes that are asked about.
        ceilings: the most that the device can do; None if it was not measured.
        values: of the weights; None if they are not known, or were generated.
        calibrated: whether the weights come with images to calibrate on.
        timed: rows that were measured here.
        seen: what earlier exports, checks and searches found.
    """

    config: ResNeXtConfig
    batch: int = 8
    groups: Mapping[str, int] = field(default_factory=dict)
    features: frozenset[str] = frozenset()
    gpu: tuple[str, tuple[int, int]] | None = None
    backends: tuple[Backend, ...] = ()
    ceilings: MachineCeilings | None = None
    values: Values | None = None
    calibrated: bool = True
    timed: tuple[Timed, ...] = ()
    seen: tuple[Seen, ...] = ()

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The weighted layers, as the artifact has them."""
        return layers_of(self.config, self.groups)

    @cached_property
    def grouped(self) -> tuple[Layer, ...]:
        """Convolutions of several groups."""
        return tuple(layer for layer in self.layers if layer.groups > 1)

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The layers by stage and kind, with their floors."""
        native = [name for name in PRECISIONS if name == DEFAULT or self.on("native", name)]
        return stages_of(self.layers, self.batch, self.ceilings, native)

    @property
    def usable(self) -> tuple[Backend, ...]:
        """Runtimes without a problem."""
        return tuple(each for each in self.backends if not each.problem)

    def on(self, way: Way, precision: str) -> tuple[Backend, ...]:
        """Usable runtimes that get to ``precision`` in this way."""
        return tuple(each for each in self.usable if each.ways.get(precision) == way)

    def layers_ns(self, precision: str = DEFAULT) -> float | None:
        """Floor of all layers, one after another; None if there are no ceilings."""
        floors = [stage.floors.get(precision) for stage in self.stages]
        known = [floor.seconds for floor in floors if floor is not None]
        return sum(known) * 1e9 if known else None
