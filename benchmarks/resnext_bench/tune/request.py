"""What a search was asked for, checked, with its defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from resnext.errors import UnknownName, UsageError
from resnext.machine.threads import thread_budget
from resnext.network.config import ResNeXtConfig
from resnext.network.layers import layers
from resnext.precision import PRECISIONS, Precision
from resnext.runtimes.registry import LOCAL_ARTIFACT_RUNTIMES, RUNTIMES, Device, check_device
from resnext.weights.shipped import SHIPPED
from resnext.weights.spec import Weights

from .gates import KINDS, USUAL, limit_text, parsed_gates
from .record import GateRecord, Goal

T = TypeVar("T")

#: Multiply-accumulates of a network that runs 64 images in the time of a large one's single image.
_SMALL_MACS = 500_000_000
#: Labeled images by default: agreement is known to within 1 %, and no candidate takes minutes.
ACCURACY_IMAGES = 1000
#: Share that counts as no difference.
MARGIN = 0.01
#: Largest batch, number of threads and of streams.
_MOST = {"batch": 65_536, "threads": 4096, "streams": 1024}
GOALS: tuple[Goal, ...] = ("latency", "throughput")


@dataclass(frozen=True)
class Request:
    """Everything that decides which candidates there are, and which one wins.

    Attributes:
        weights: the network.
        goal: what is made as good as it can be.
        gates: limits, without actual values.
        backends: names of runtimes that run artifacts, in this order; None means every one that
            this machine has.
        precisions: of weights and activations.
        batches: images in one run.
        threads: CPU threads; None alone means the thread budget.
        streams: requests in flight.
        device: for runtimes that run on either.
        calibration: images for int8 and fp8; None means the training images of shipped weights.
        calibration_images: their count; None means the exporter's default.
        accuracy: labeled images; None if there are none.
        accuracy_images: size of a seeded sample of them; None means `ACCURACY_IMAGES`, or all if
            there are fewer.
        seed: of the images and of the order of visits.
        margin: share that counts as no difference.
        budget_s: seconds that the search may take; None for no limit.
    """

    weights: Weights
    goal: Goal
    gates: tuple[GateRecord, ...]
    backends: tuple[str, ...] | None
    precisions: tuple[Precision, ...]
    batches: tuple[int, ...]
    threads: tuple[int | None, ...]
    streams: tuple[int, ...]
    device: Device = "auto"
    calibration: str | None = None
    calibration_images: int | None = None
    accuracy: str | None = None
    accuracy_images: int | None = None
    seed: int = 0
    margin: float = MARGIN
    budget_s: float | None = None

    @property
    def shipped(self) -> bool:
        """Whether the weights come with images."""
        return shipped(self.weights)

    def per(self, batch: int, streams: int) -> int:
        """What a time is divided by before candidates are compared: for throughput the images in
        flight.
        """
        return batch * streams if self.goal == "throughput" else 1


def checked_request(
    weights: Weights,
    goal: str,
    *,
    slo: str | None = None,
    gate: str | None = None,
    backends: Sequence[str] | None = None,
    precisions: Sequence[Precision] | None = None,
    batch: int | Sequence[int] | None = None,
    threads: int | Sequence[int] | None = None,
    streams: int | Sequence[int] | None = None,
    device: Device = "auto",
    calibration: str | None = None,
    calibration_images: int | None = None,
    accuracy: str | None = None,
    accuracy_images: int | None = None,
    seed: int = 0,
    budget: float | None = None,
) -> Request:
    """The request that these arguments of `resnext_bench.tune_artifact` make.

    Raises:
        UsageError: a value out of range, or arguments that do not go together.
        UnknownName: an unknown goal, gate, runtime or precision.
    """
    if goal not in GOALS:
        raise UnknownName("goal", goal, GOALS)
    for kind, names, known in (
        ("backend", backends, LOCAL_ARTIFACT_RUNTIMES),
        ("precision", precisions, tuple(PRECISIONS)),
    ):
        for name in names or ():
            if kind == "backend" and name in RUNTIMES and RUNTIMES[name].live:
                raise UsageError(
                    f"backend {name!r} runs the live network, of which there is no artifact",
                    hint=f"use `backend` {', '.join(LOCAL_ARTIFACT_RUNTIMES)}",
                )
            if name not in known:
                raise UnknownName(kind, name, known)
    for name in backends or ():
        check_device(name, device)
    if budget is not None and not 0 < budget < float("inf"):
        raise UsageError(f"`budget` must be above 0 seconds, not {budget:g}")
    gates = parsed_gates(gate, slo)
    if accuracy is None and shipped(weights):
        accuracy = weights.source
    labeled = [each for each in gates if KINDS[each.name].labeled]
    if labeled and accuracy is None:
        raise UsageError(
            f"`gate` {limit_text(labeled[0])} needs labeled images",
            hint="name a folder with one subfolder for each class in `accuracy`",
        )
    if accuracy is None and accuracy_images is not None:
        raise UsageError(
            "`accuracy_images` says how many of the images of `accuracy`", hint="give that too"
        )
    if accuracy_images is not None and accuracy_images < 1:
        raise UsageError(f"`accuracy_images` must be at least 1, not {accuracy_images}")
    if accuracy is not None and not labeled:
        gates = (*USUAL, *gates)
    chosen_batches = _counts("batch", batch) or default_batches(goal, weights.config)
    chosen_threads: tuple[int | None, ...] = _counts("threads", threads) or (None,)
    chosen_streams = _counts("streams", streams) or ((1, 2) if goal == "throughput" else (1,))
    return Request(
        weights=weights,
        goal="latency" if goal == "latency" else "throughput",
        gates=gates,
        backends=None if backends is None else tuple(dict.fromkeys(backends)),
        precisions=tuple(dict.fromkeys(precisions or PRECISIONS)),
        batches=chosen_batches,
        threads=chosen_threads,
        streams=chosen_streams,
        device=device,
        calibration=calibration,
        calibration_images=calibration_images,
        accuracy=accuracy,
        accuracy_images=accuracy_images,
        seed=seed,
        budget_s=budget,
    )


def without_labeled(request: Request) -> Request:
    """``request`` without labeled images, and without the gates that come with them."""
    gates = tuple(gate for gate in request.gates if gate not in USUAL)
    return replace(request, accuracy=None, gates=gates)


def default_batches(goal: str, config: ResNeXtConfig) -> tuple[int, ...]:
    """Batch sizes for ``goal``: 1 for latency; for throughput 1 and 8, and of a small network 64,
    whose single images leave a machine idle.
    """
    if goal == "latency":
        return (1,)
    small = sum(layer.macs for layer in layers(config)) < _SMALL_MACS
    return (1, 8, 64) if small else (1, 8)


def shipped(weights: Weights) -> bool:
    """Whether ``weights`` come with images."""
    return weights.source in SHIPPED and SHIPPED[weights.source].config == weights.config


def _counts(name: str, values: int | Sequence[int] | None) -> tuple[int, ...]:
    """``values`` as a tuple without repetitions; empty for None.

    Raises:
        UsageError: one is out of range.
    """
    if values is None:
        return ()
    counts = (values,) if isinstance(values, int) else tuple(dict.fromkeys(values))
    most = _MOST[name]
    for count in counts or (0,):
        if not 1 <= count <= most:
            raise UsageError(f"`{name}` must be from 1 to {most}, not {count}")
    return counts


def threads_of(threads: int | None) -> int:
    """``threads``, or the thread budget of this process."""
    return thread_budget().count if threads is None else threads
