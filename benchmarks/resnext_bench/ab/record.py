"""The stored form of a comparison of two arms: raw times with everything needed to judge them."""

from __future__ import annotations

import math
import statistics
from typing import Literal

from resnext.artifact.manifest import WeightsRecord
from resnext.artifact.specs import Strict
from resnext.machine.environment import Environment
from resnext.machine.load import Load
from resnext.runtimes.session import Boundary
from resnext.timing.change import Change
from resnext.verify.parity import Parity


class Round(Strict):
    """One visit to each arm, one after the other.

    Attributes:
        pair: index of the pair of processes.
        first: the arm that was visited first.
        times_ns: of each run, of A and of B.
        loads: of the processors during the visits.
        disturbances: what disturbed either visit; a round with any does not count.
    """

    pair: int
    first: Literal["A", "B"]
    times_ns: tuple[tuple[int, ...], tuple[int, ...]]
    loads: tuple[Load, Load]
    disturbances: tuple[str, ...] = ()

    @property
    def log_ratio(self) -> float:
        """Logarithm of B's median over A's."""
        base, new = (max(1.0, statistics.median(times)) for times in self.times_ns)
        return math.log(new / base)


class ArmRecord(Strict):
    """One arm.

    Attributes:
        name: ``A`` or ``B``.
        subject: as the user named it.
        backend: registry name.
        precision: of weights and activations.
        artifact_sha256: digest of the file that ran, or None for a live model.
        other_environment: whether it ran in another environment than the command.
        environment: machine and software of its process.
        device: device name.
        delivered: element types in which convolutions and matrix products were computed.
        notes: threads, memory format, CUDA graph, ...
        median_ns: over the runs of all rounds that count; None without any.
        parity: of the output of a timed run, against float64 PyTorch.
        weights: source and digest, if they are others than those of the comparison.
    """

    name: Literal["A", "B"]
    subject: str
    backend: str
    precision: str
    artifact_sha256: str | None
    other_environment: bool
    environment: Environment
    device: str
    delivered: str
    notes: dict[str, str]
    median_ns: float | None
    parity: Parity
    weights: WeightsRecord | None = None


class Duel(Strict):
    """Everything from one call of ``resnext-bench ab``.

    Attributes:
        format_version: of this file.
        created: UTC time, ISO 8601.
        model: variant, or None for a configuration without a name.
        weights: source and digest, of A.
        batch: images in one run.
        boundary: what the times enclose.
        threads: CPU threads of each arm.
        seed: of the test images and of the order of visits.
        duration_s: requested timed seconds of each arm, for each pair of processes.
        rounds: requested number of undisturbed rounds, for each pair of processes.
        processes: requested pairs of processes; None for one pair and an interval over its rounds.
        arms: A and B.
        measured: every round, disturbed ones included.
        change: how much longer B takes than A, and the verdict.
    """

    format_version: Literal[1] = 1
    created: str
    model: str | None
    weights: WeightsRecord
    batch: int
    boundary: Boundary = "host"
    threads: int
    seed: int
    duration_s: float
    rounds: int
    processes: int | None
    arms: tuple[ArmRecord, ArmRecord]
    measured: tuple[Round, ...]
    change: Change
