"""Searches for tests of what the user of ``resnext-export tune`` sees."""

from __future__ import annotations

import random
import statistics
from typing import Any

from fakes.here import HERE
from resnext.artifact.manifest import WeightsRecord
from resnext.timing.change import Verdict
from resnext.verify.accuracy import Accuracy
from resnext_bench.stats import ratio_interval
from resnext_bench.tune.front import with_front
from resnext_bench.tune.record import (
    CandidateRecord,
    ConfirmationRecord,
    GateRecord,
    Goal,
    TuneRecord,
)

Rounds = dict[int, tuple[int, ...]]

MARGIN = 0.02
MB = 1_000_000
_RUNS = 4
AGREEMENT = GateRecord(name="agreement", actual=None, allowed=0.99, at_least=True, unit="share")
LOSS = GateRecord(name="top1-loss", actual=None, allowed=1.0, unit="points")
SLO = GateRecord(name="p99", actual=None, allowed=20.0, unit="ms")
COMMAND = (
    *("resnext-export", "tune", "--weights", "digits", "--goal", "throughput"),
    *("--gate", "agreement>=0.99,top1-loss<=1%", "--slo", "p99<=20ms", "--output", "best/"),
)


def rounds(ms: float, count: int, seed: int = 0) -> Rounds:
    """Rounds around ``ms``; the drift of the machine is the same for every seed."""
    noise = random.Random(seed)
    return {
        index: tuple(
            round(ms * 1e6 * (1 + 0.01 * (index % 5) + 0.004 * noise.gauss(0, 1)))
            for _ in range(_RUNS)
        )
        for index in range(count)
    }


def accuracy(top1: float, agreement: float) -> Accuracy:
    """Of 1,000 images; the reference has 95 %."""
    return Accuracy(
        source="digits",
        digest="0" * 64,
        images=1000,
        backend="ort-cpu",
        top1=top1,
        top1_low=max(0.0, top1 - 0.02),
        top1_high=min(1.0, top1 + 0.02),
        top5=None,
        top5_low=None,
        top5_high=None,
        reference_top1=0.95,
        reference_top1_low=0.93,
        constant_top1=0.1,
        agreement=agreement,
        agreement_low=max(0.0, agreement - 0.01),
        flips=round(1000 * (1 - agreement)),
        flips_by_margin=(),
        losing_flips=0,
        winning_flips=0,
        nonfinite=0,
    )


def candidate(name: str, outcome: str, **facts: Any) -> CandidateRecord:
    """One that never ran, unless ``facts`` say more."""
    backend, precision = name.replace(",", "").split()[:2]
    slug = name.replace(", ", "-").replace(" ", "-")
    fields: dict[str, Any] = {
        "name": name,
        "backend": backend,
        "precision": precision if precision in ("fp16", "bf16", "int8", "fp8") else "fp32",
        "batch": 1,
        "threads": 2,
        "outcome": outcome,
    }
    if outcome not in ("baseline", "refused"):
        format_ = "openvino" if backend == "openvino" else "onnx"
        export = ("resnext-export", "--weights", "digits", "--format", format_)
        fields["export_command"] = (*export, "--precision", precision, "--output", f"best/{slug}/")
    if outcome != "refused":
        bench = ("resnext-bench", "--backend", backend, "--artifact", f"best/{slug}/")
        fields["bench_command"] = (*bench, "--batch", str(facts.get("batch", 1)))
    return CandidateRecord(**(fields | facts))


def timed(
    name: str,
    outcome: str,
    ms: float,
    count: int,
    *,
    gates: tuple[GateRecord, ...] = (),
    top1: float | None = None,
    agreement: float = 1.0,
    **facts: Any,
) -> CandidateRecord:
    """One that took ``ms`` for a batch in ``count`` rounds, with 1,000 further runs in its p99."""
    measured = rounds(ms, count, seed=len(name) + sum(map(ord, name)))
    median = statistics.median(ns for burst in measured.values() for ns in burst)
    p99_ns = round(1.06 * median) if count >= 8 else None
    labels = None if top1 is None else accuracy(top1, agreement)
    actual = {
        "agreement": agreement,
        "top1-loss": None if top1 is None else round(100 * (0.95 - top1), 6),
        "p99": None if p99_ns is None else p99_ns / 1e6,
    }
    compared = [gate.model_copy(update={"actual": actual[gate.name]}) for gate in gates]
    known: dict[str, Any] = {
        "rounds_ns": measured,
        "p50_ns": median,
        "p99_ns": p99_ns,
        "images_per_s": facts.get("batch", 1) * facts.get("streams", 1) / median * 1e9,
        "accuracy": labels,
        "gates": tuple(compared),
        "delivered": "52 of 53 int8",
        "build_s": 4.2,
        "artifact_sha256": "0" * 64,
    }
    return candidate(name, outcome, **(known | facts))


def ranked(candidates: list[CandidateRecord], goal: Goal) -> tuple[CandidateRecord, ...]:
    """With ratios to the pick, and the front."""
    pick = next((one for one in candidates if one.outcome == "picked"), None)
    found = []
    for one in candidates:
        both = None if pick is None else ratio_interval(_units(one, goal), _units(pick, goal))
        ratio = None if both is None or one is pick else tuple(both)
        found.append(one.model_copy(update={"ratio": ratio}))
    return with_front(found)


def _units(one: CandidateRecord, goal: Goal) -> dict[int, list[int]]:
    images = one.batch * one.streams if goal == "throughput" else 1
    return {index: [ns // images for ns in burst] for index, burst in one.rounds_ns.items()}


def fresh(
    other: str, ratio: tuple[float, float, float] | None, verdict: Verdict, **facts: Any
) -> ConfirmationRecord:
    """A confirmation against ``other``."""
    pairs = tuple(
        (tuple(ours), tuple(round(ns * (ratio or (1,))[0]) for ns in ours))
        for ours in rounds(19.0, 8, seed=9).values()
    )
    return ConfirmationRecord(other=other, rounds_ns=pairs, ratio=ratio, verdict=verdict, **facts)


def search(goal: Goal = "throughput", *, gates: tuple[GateRecord, ...] | None = None) -> TuneRecord:
    """A whole search: candidates of every outcome, gates met and missed."""
    wanted = (AGREEMENT, LOSS, SLO) if gates is None else gates
    met: dict[str, Any] = {"gates": wanted, "top1": 0.946, "agreement": 0.993}
    int8: dict[str, Any] = {"calibration_method": "minmax", "size_bytes": 24_000_000} | met
    merged = int8 | {"merge_groups": 32, "size_bytes": 27_500_000}
    fp32: dict[str, Any] = {"gates": wanted, "top1": 0.95, "batch": 4}
    two: dict[str, Any] = {"batch": 4, "streams": 2}
    openvino = "openvino int8 merged"
    late = "worse than the leader from round"
    early = "more than 25 % slower than the leader after 2 rounds"
    candidates = [
        timed(f"{openvino} 32, 2 streams, batch 4", "picked", 18.0, 12, **(merged | two)),
        timed(
            *(f"{openvino} auto, 2 streams, batch 4", "same", 18.1, 12),
            **(int8 | two | {"merge_groups": "auto", "size_bytes": 27_400_000}),
            reason="as fast as the pick within 2 %",
        ),
        timed(
            *("openvino int8, batch 4", "slower", 10.2, 9), **int8, batch=4, reason=f"{late} 9 on"
        ),
        timed(
            *("ort-cpu int8 merged 32, batch 4", "slower", 11.0, 7),
            **(merged | {"batch": 4, "top1": 0.945, "reason": f"{late} 7 on"}),
        ),
        timed("openvino int8, batch 1", "slower", 3.1, 6, **int8, reason=f"{late} 6 on"),
        timed("openvino fp32, batch 4", "slower", 21, 2, **fp32, size_bytes=99 * MB, reason=early),
        timed("ort-cpu fp32, batch 4", "slower", 23, 2, **fp32, size_bytes=98 * MB, reason=early),
        timed(
            *(f"{openvino} 32, 2 streams, batch 8", "gate", 34.0, 12),
            **(merged | two | {"batch": 8, "reason": "p99 36.8 ms, allowed 20 ms"}),
        ),
        candidate(
            "ort-cpu int8 entropy, batch 4",
            "gate",
            batch=4,
            calibration_method="entropy",
            size_bytes=24_100_000,
            gates=_missed(wanted, agreement=0.97, loss=1.5),
            reason="agreement 97 %, top1-loss 1.5 points",
        ),
        candidate(
            "openvino int8 percentile, batch 4",
            "gate",
            batch=4,
            calibration_method="percentile",
            size_bytes=24_200_000,
            gates=_missed(wanted, agreement=0.98996, loss=0.6),
            reason="agreement 98.996 %",
            hint="quantize with `calibration_method` minmax",
        ),
        *(
            candidate(
                f"{backend} fp8, batch {batch}",
                "refused",
                batch=batch,
                reason="a CPU has no fp8 arithmetic: it would be computed in fp32",
                hint="take int8",
            )
            for backend in ("ort-cpu", "openvino")
            for batch in (1, 4)
        ),
        candidate(
            "pt2 fp32, batch 4",
            "failed",
            batch=4,
            reason="no C++ compiler: g++ is not found",
            hint="apt-get install g++",
        ),
        candidate("pt2 bf16, batch 4", "not-measured", batch=4, reason="its build was not begun"),
        timed("torch fp32, batch 4", "baseline", 60.0, 12, batch=4, size_bytes=99_500_000),
    ]
    confirmed = (
        fresh(candidates[1].name, (1.004, 0.996, 1.012), "SAME", p99_ns=19_400_000),
        fresh(candidates[-1].name, (6.66, 6.58, 6.74), "SLOWER", p99_ns=19_400_000),
    )
    return TuneRecord(
        created="2026-11-28T10:00:00+00:00",
        model="resnext8_digits",
        weights=WeightsRecord(source="digits", sha256="0" * 64),
        goal=goal,
        gates=wanted,
        accuracy_source="digits",
        budget_s=600,
        spent_s=212.4,
        seed=0,
        threads=2,
        margin=MARGIN,
        environment=HERE,
        complete=True,
        ended="same",
        candidates=ranked(candidates, goal),
        pick=candidates[0].name,
        runner_up=candidates[1].name,
        confirmed=confirmed,
        visits=98,
        grid_visits=204,
        command=COMMAND,
    )


def _missed(
    wanted: tuple[GateRecord, ...], *, agreement: float, loss: float
) -> tuple[GateRecord, ...]:
    """Of a candidate that was never timed."""
    actual = {"agreement": agreement, "top1-loss": loss}
    return tuple(
        gate.model_copy(update={"actual": actual[gate.name]})
        for gate in wanted
        if gate.name in actual
    )
