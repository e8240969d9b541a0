"""Searches for tests of what the user of ``resnext-export tune`` sees."""

from __future__ import annotations

import hashlib
import random
import statistics
from collections.abc import Callable
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
    """Rounds around ``ms``: a drift that is the same for every seed, the noise of a visit, and that
    of a run.
    """
    noise = random.Random(seed)
    found = {}
    for index in range(count):
        visit = 1 + 0.01 * (index % 5) + 0.006 * noise.gauss(0, 1)
        runs = (visit + 0.004 * noise.gauss(0, 1) for _ in range(_RUNS))
        found[index] = tuple(round(ms * 1e6 * run) for run in runs)
    return found


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
        fields["export_command"] = (*export, "--precision", precision, "--output", f"{slug}/")
    if outcome != "refused":
        bench = ("resnext-bench", "--backend", backend, "--artifact", f"{slug}/")
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
        "artifact_sha256": _digest(facts),
    }
    return candidate(name, outcome, **(known | facts))


def _digest(facts: dict[str, Any]) -> str:
    """The same for those that differ in nothing but how they run."""
    return hashlib.sha256(str(facts.get("size_bytes")).encode()).hexdigest()


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
            "ort-cpu int8 percentile, batch 4",
            "gate",
            batch=4,
            calibration_method="percentile",
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
        *(
            candidate(
                *(f"pt2 {precision}, batch 4", "failed"),
                batch=4,
                reason="no C++ compiler: g++ is not found",
                hint="apt-get install g++",
            )
            for precision in ("fp32", "bf16")
        ),
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


def changed(record: TuneRecord, **facts: Any) -> TuneRecord:
    """``record`` with other ``facts``; unchecked, as `search` is not."""
    return record.model_copy(update=facts)


def without_pick(record: TuneRecord, **facts: Any) -> TuneRecord:
    """``record`` with other ``facts``, and nothing chosen."""
    return changed(record, pick=None, runner_up=None, confirmed=(), **facts)


def for_latency() -> TuneRecord:
    """Batch 1, without gates; the runner-up cannot be told apart from the pick, nor it from eager
    PyTorch, which is faster in fresh processes.
    """
    candidates = [
        timed("ort-cpu fp32, batch 1", "picked", 6.00, 10, size_bytes=99 * MB),
        timed(
            *("openvino fp32, batch 1", "same", 6.02, 10),
            size_bytes=99 * MB,
            reason="not told apart from the pick in 10 rounds",
        ),
        timed("torch-folded fp32, batch 1", "slower", 7.0, 7, size_bytes=99 * MB),
        timed("torch fp32, batch 1", "baseline", 6.01, 10, size_bytes=99 * MB),
    ]
    found = ranked(candidates, "latency")
    confirmed = (
        fresh(found[1].name, (1.01, 0.97, 1.06), "CANNOT TELL"),
        fresh(found[3].name, (0.9, 0.88, 0.93), "FASTER"),
    )
    facts: dict[str, Any] = {"goal": "latency", "gates": (), "pick": found[0].name}
    return changed(
        search(), candidates=found, runner_up=found[1].name, confirmed=confirmed, **facts
    )


def none_passed() -> TuneRecord:
    """Every candidate that ran misses a gate, some narrowly."""
    record = search()
    tight = AGREEMENT.model_copy(update={"allowed": 0.995})
    candidates = []
    for index, one in enumerate(record.candidates):
        missed = tight.model_copy(update={"actual": 0.993 - 0.001 * index})
        ran = one.outcome in ("picked", "same", "slower", "gate")
        facts = {"outcome": "gate", "gates": (missed,)} if ran else {}
        candidates.append(one.model_copy(update=facts))
    found = ranked(candidates, record.goal)
    return without_pick(record, gates=(tight,), candidates=found, ended="one-left")


def interrupted() -> TuneRecord:
    """Stopped in the race: there is a leader, and nothing was confirmed."""
    record = search()
    stopped = {"outcome": "not-measured", "reason": "interrupted"}
    candidates = tuple(
        one.model_copy(update=stopped if one.outcome == "same" else {}) for one in record.candidates
    )
    facts: dict[str, Any] = {"complete": False, "ended": "interrupted", "runner_up": None}
    return changed(record, candidates=candidates, confirmed=(), **facts)


def not_begun() -> TuneRecord:
    """Time was up before anything was timed."""
    record = search()
    candidates = tuple(
        candidate(one.name, "not-measured", batch=one.batch, reason="time was up")
        for one in record.candidates
    )
    return without_pick(record, candidates=candidates, ended="time", visits=0, grid_visits=0)


def alone() -> TuneRecord:
    """One candidate, without gates, labels, baseline and budget."""
    one = timed("ort-cpu fp32, batch 1", "picked", 10.0, 6, size_bytes=99 * MB)
    facts: dict[str, Any] = {"gates": (), "accuracy_source": None, "budget_s": None, "command": ()}
    record = without_pick(search(), candidates=with_front([one]), ended="one-left", **facts)
    return changed(record, pick=one.name)


def contradicted() -> TuneRecord:
    """In fresh processes the runner-up is faster, the baseline was not so slow, and p99 misses."""
    record = search()
    other, baseline = record.candidates[1].name, record.candidates[-1].name
    return changed(
        record,
        confirmed=(
            fresh(other, (0.93, 0.91, 0.95), "FASTER", p99_ns=21_300_000),
            fresh(baseline, (4.0, 3.9, 4.1), "SLOWER", p99_ns=21_200_000),
        ),
    )


def absurd() -> TuneRecord:
    """Numbers that no machine has: nothing takes time, or for ever."""
    record = search()
    wrong: list[dict[str, Any]] = [
        {"p50_ns": 0.0, "images_per_s": 0.0, "rounds_ns": {0: (0, 0), 7: ()}, "size_bytes": 0},
        {"p50_ns": float("nan"), "images_per_s": float("nan"), "ratio": (float("nan"),) * 3},
        {"p50_ns": 9e18, "images_per_s": 1e-12, "rounds_ns": {2**62: (2**62,)}, "p99_ns": 2**62},
        {"p50_ns": float("inf"), "images_per_s": float("inf"), "ratio": (0.0, 0.0, 0.0)},
        {"p50_ns": -5.0, "images_per_s": 1e300, "ratio": (1e300, 1e-300, float("inf"))},
    ]
    candidates = [
        one.model_copy(update=wrong[index % len(wrong)])
        for index, one in enumerate(record.candidates)
    ]
    confirmed = (fresh(candidates[1].name, None, "CANNOT TELL", p99_ns=0),)
    facts = {"visits": 0, "grid_visits": 1, "margin": 0.0, "spent_s": 1e300, "budget_s": 0.0}
    return changed(record, candidates=with_front(candidates), confirmed=confirmed, **facts)


def named(text: str, record: TuneRecord | None = None) -> TuneRecord:
    """``record``, by default a whole search, with ``text`` in every string that a user, a runtime
    or a file can choose.
    """
    record = search() if record is None else record
    words = (text, f"--output={text}")
    candidates = tuple(
        one.model_copy(
            update={
                "name": one.name + text,
                "backend": one.backend + text,
                "reason": one.reason + text,
                "hint": one.hint + text,
                "export_command": one.export_command and (*one.export_command, *words),
                "bench_command": one.bench_command and (*one.bench_command, text),
                "gates": tuple(
                    gate.model_copy(update={"name": gate.name + text}) for gate in one.gates
                ),
            }
        )
        for one in record.candidates
    )
    environment = record.environment.model_copy(
        update={"cpu": text, "system": text, "python": text, "packages": {text: text}}
    )
    return changed(
        record,
        created=text,
        model=text,
        weights=record.weights.model_copy(update={"source": text}),
        accuracy_source=text,
        environment=environment,
        candidates=candidates,
        gates=tuple(gate.model_copy(update={"name": gate.name + text}) for gate in record.gates),
        pick=record.pick and record.pick + text,
        confirmed=tuple(
            one.model_copy(update={"other": one.other + text}) for one in record.confirmed
        ),
        command=(*record.command, text),
    )


#: A search of every kind by its name.
SEARCHES: dict[str, Callable[[], TuneRecord]] = {
    "whole": search,
    "latency": for_latency,
    "none passed": none_passed,
    "interrupted": interrupted,
    "not begun": not_begun,
    "alone": alone,
    "contradicted": contradicted,
    "absurd": absurd,
    "long names": lambda: named("-calibrated-on-the-whole-training-set" * 4),
    "control characters": lambda: named("\x1b[2J\r\u202e\x00"),
    "nothing": lambda: without_pick(search(), candidates=()),
}
