"""Every validity check has a code, a page and a planted fault that it alone finds."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

import numpy as np
import pytest

import resnext_bench.checks
from resnext.errors import GateFailed
from resnext.findings import Finding
from resnext.machine.load import Load
from resnext.network.config import VARIANTS
from resnext.network.layers import layers
from resnext.runtimes.session import SERVED, Delivered, DeliveredLayer
from resnext.testing import FakeSession
from resnext.verify.accuracy import Accuracy
from resnext.verify.batches.integrity import timed_batch_integrity
from resnext.verify.batches.laws import Integrity
from resnext.verify.parity import compare
from resnext_bench.checks import delivered as checks_delivered
from resnext_bench.checks.evidence import Evidence
from resnext_bench.checks.registry import CHECKS, judge, registry
from resnext_bench.limits.distance import Distance
from resnext_bench.measure import Samples
from resnext_bench.scenarios.growth import Growth
from resnext_bench.scenarios.load_record import LoadRecord, Probe
from resnext_bench.scenarios.loadgen_record import LoadGenRecord, record_of
from resnext_bench.scenarios.scenario import Passes
from resnext_bench.scenarios.soak_record import SoakRecord
from resnext_bench.served import ServedRecord, ServerTimes
from resnext_bench.stats import timing_of

DIGITS = VARIANTS["resnext11_8x4d_digits"]
STEADY = [[1000] * 4] * 4
LOGITS = (np.arange(12).reshape(3, 4) + np.eye(3, 4)).astype(np.float32)


def delivered(dtype: str) -> Delivered:
    names = [layer.name for layer in layers(DIGITS)]
    return Delivered(
        "cpu", tuple(DeliveredLayer(name, "Conv", dtype, "cpu", (name,)) for name in names)
    )


def served(**facts: Any) -> ServedRecord:
    """Of a model whose server counted; 40 requests, nobody else's."""
    counts = {"sent": 40, "requests": 40, "executions": 40, "batch": 1.0, "late": 4}
    times = ("client_ns", "server_ns", "queue_ns", "input_ns", "infer_ns", "output_ns")
    fine = ServerTimes(**(counts | dict.fromkeys(times, 1e6) | facts))
    return ServedRecord(server="triton", confirmed=True, times=fine)


def accuracy(**facts: Any) -> Accuracy:
    good = {
        "source": "digits",
        "digest": "a" * 64,
        "images": 100,
        "backend": "ort",
        "top1": 0.9,
        "top1_low": 0.8,
        "top1_high": 0.95,
        "top5": None,
        "top5_low": None,
        "top5_high": None,
        "reference_top1": 0.9,
        "reference_top1_low": 0.8,
        "constant_top1": 0.1,
        "agreement": 1.0,
        "agreement_low": 0.96,
        "flips": 0,
        "flips_by_margin": (),
        "losing_flips": 0,
        "winning_flips": 0,
        "nonfinite": 0,
    }
    return Accuracy(**(good | facts))


def measured(samples: Samples) -> dict[str, Any]:
    timings = [timing_of("host", samples.host_ns, 1)]
    if samples.device_ns and samples.device_boundary:
        timings.append(timing_of(samples.device_boundary, samples.device_ns, 1))
    return {"samples": samples, "timings": tuple(timings)}


def integrity(function: Callable[[Any], Any]) -> Integrity:
    session = FakeSession(function, in_shape=(4,), classes=4)
    return timed_batch_integrity(session, LOGITS, [LOGITS], numerics="fp32")


def loads(*own: float) -> list[Load]:
    """Rounds in which the process used ``own`` processors."""
    return [Load(wall_s=1.0, processors=2, cores=2, own=each) for each in own]


def at_share(share: float) -> Distance:
    return Distance(
        ceiling="fp32 avx512",
        compute_ns=900.0,
        layers_ns=1500.0,
        blocks_ns=1000.0,
        limited_by="memory",
        share=share,
    )


FINE = Evidence(
    **measured(Samples(STEADY)),
    parity=compare(LOGITS, LOGITS),
    integrity=integrity(lambda images: images),
    delivered=delivered("float32"),
    config=DIGITS,
    numerics="fp32",
    accuracy=accuracy(),
    distance=at_share(1.04),
)


def grows(*per_minute: float) -> Growth:
    estimate, low, high = per_minute
    return Growth(per_minute=(estimate, low, high), minutes=2.0)


def soaked(**facts: Any) -> Evidence:
    """A sound row with a soak."""
    good = {
        "minutes": 2.0,
        "lasted_s": 120.0,
        "batches": (1, 2),
        "runs": 100,
        "at_s": (120.0,),
        "host_bytes": (1 << 30,),
        "latency": (1.0,),
        "host_growth": grows(2e6, -1e6, 3e6),
        "device_growth": grows(2e5, 1e5, 3e5),
        "latency_growth": grows(0.02, 0.01, 0.03),
        "output_error": 0.0,
        "output_limit": 1e-6,
    }
    record = SoakRecord(**(good | facts))
    return replace(FINE, passes=Passes(records={"soak": record}))


def loaded(**facts: Any) -> Evidence:
    """A sound row under load, with a sound LoadGen run."""
    good = {
        "offered_per_s": 100.0,
        "workers": 1,
        "answered_per_s": 99.0,
        "images_per_s": 99.0,
        "requests": 700,
        "busy": 0.5,
        "latency_ns": (1000,) * 700,
        "p50_ns": 1000.0,
        "p90_ns": 1000,
        "p99_ns": 1000,
        "max_ns": 1000,
        "over_slo": 0,
        "late_ns": 10,
    }
    load = LoadRecord(load="poisson:100", slo_ns=2000, probes=(Probe(**(good | facts)),))
    return replace(FINE, passes=Passes(records={"load": load, "loadgen": generated("VALID")}))


def generated(result: Literal["VALID", "INVALID"]) -> LoadGenRecord:
    summary = f"Result is : {result}\nRecommendations:\n * Run for\n longer.\n"
    return record_of(summary, "offline", "6.0.17", 1, 1, min_duration_s=1.0)


FAULTS: dict[str, Evidence] = {
    "scenario-failed": replace(
        FINE, passes=Passes(errors={"load": GateFailed("no answer in 60 s")})
    ),
    "cannot-serve": loaded(dropped=9),
    "late-arrivals": loaded(late_ns=1_000_000),
    "slo-not-met": loaded(over_slo=70),
    "wrong-under-load": loaded(wrong="planted"),
    "loadgen-invalid": replace(FINE, passes=Passes(records={"loadgen": generated("INVALID")})),
    "memory-leak": soaked(host_growth=grows(2e6, 1e6, 3e6)),
    "latency-growth": soaked(latency_growth=grows(0.1, 0.05, 0.15)),
    "changed-output": soaked(output_error=None, changed_s=61.0),
    "too-few-samples": replace(FINE, **measured(Samples([[1000] * 5]))),
    "no-time": replace(FINE, **measured(Samples([[0, *[1000] * 3], *STEADY[1:]]))),
    "disturbed-machine": replace(
        FINE,
        **measured(Samples(STEADY, disturbed=dict.fromkeys((1, 3), ("other processes (0.8)",)))),
        planned_rounds=4,
    ),
    "unsteady-machine": replace(
        FINE, **measured(Samples([[1000 + 600 * index] * 4 for index in range(4)]))
    ),
    "imprecise-median": replace(FINE, **measured(Samples([[1000], [1140]] * 6)), precision=0.01),
    "two-modes": replace(FINE, **measured(Samples([[1000, 1001, 1002, 1100, 1101, 1102]] * 8))),
    "thread-budget": replace(FINE, **measured(Samples(STEADY, loads=loads(1.5))), threads=1),
    "device-clock": replace(
        FINE,
        **measured(
            Samples(STEADY, device_ns=STEADY, device_wall_ns=[1000] * 4, device_boundary="graph")
        ),
    ),
    "wrong-output": replace(FINE, parity=compare(LOGITS, LOGITS[::-1])),
    "batch-integrity": replace(FINE, integrity=integrity(lambda images: images[::-1])),
    "precision-not-delivered": replace(FINE, delivered=delivered("float16")),
    "accuracy-lost": replace(FINE, accuracy=accuracy(losing_flips=3)),
    "beyond-the-limit": replace(FINE, distance=at_share(1.06)),
    "host-bound": replace(
        FINE,
        **measured(
            Samples(
                STEADY,
                device_ns=STEADY,
                device_wall_ns=[4200] * 4,
                device_boundary="device",
                enqueue_ns=[790, 810, 830],
            )
        ),
    ),
    "copy-bound": replace(
        FINE,
        **measured(
            Samples(
                [[2100] * 4] * 4,
                device_ns=STEADY,
                device_wall_ns=[4200] * 4,
                device_boundary="graph",
                enqueue_ns=[100] * 3,
            )
        ),
    ),
    "answered-from-cache": replace(FINE, served=served(cached=1)),
    "shared-server": replace(FINE, served=served(requests=45)),
    "untrained-weights": replace(
        FINE, caveats=(Finding("untrained-weights", "planted", severity="warning"),)
    ),
    "assumed-preprocessing": replace(
        FINE,
        accuracy=accuracy(),
        caveats=(Finding("assumed-preprocessing", "planted", severity="warning"),),
    ),
}


@pytest.mark.parametrize("unsure", [{"numerics": "fp16"}, {"parity": None}])
def test_a_precision_that_a_server_does_not_tell_is_a_warning(unsure: dict[str, Any]) -> None:
    seen = replace(FINE, delivered=Delivered(SERVED, ()))
    assert judge(seen) == ()  # fp32 that passes its gate
    (finding,) = checks_delivered.findings(replace(seen, **unsure))
    assert (finding.code, finding.severity) == ("precision-not-delivered", "warning")
    assert "a server does not tell" in finding.message


def test_a_sound_row_has_no_finding() -> None:
    assert judge(FINE) == ()
    assert judge(soaked()) == ()
    assert judge(replace(FINE, served=served())) == ()
    assert judge(replace(FINE, served=served(requests=44))) == ()  # they may only be late
    assert judge(loaded()) == ()


@pytest.mark.parametrize("code", CHECKS)
def test_each_planted_fault_is_found_by_its_check_alone(code: str) -> None:
    findings = judge(FAULTS[code])
    assert {finding.code for finding in findings} == {code}
    assert len(findings) == 1 or code == "batch-integrity"  # one for each broken law
    assert all("\n" not in str(finding) for finding in findings)


def test_flushes_of_cold_caches_are_not_counted_as_threads_of_the_runtime() -> None:
    hot = with_threads(1, "1", 1.9, 1.9)
    assert [each.code for each in judge(hot)] == ["thread-budget"]
    assert judge(replace(hot, samples=replace(hot.samples, cache="cold"))) == ()


def with_threads(threads: int, reported: str, *own: float, device: str = "cpu") -> Evidence:
    runtime = replace(delivered("float32"), device=device, notes={"threads": reported})
    return replace(
        FINE, **measured(Samples(STEADY, loads=loads(*own))), threads=threads, delivered=runtime
    )


@pytest.mark.parametrize(
    ("evidence", "found"),
    [
        (with_threads(2, "2", 2.2), ()),
        (with_threads(2, "2", 1.0, 1.0, 9.0), ()),  # one round, after a neighbor that still spins
        (with_threads(2, "2", 2.3, 2.3, 1.0), ("used 2.30 processors",)),
        (with_threads(1, "1", 1.5), ("more than its 1 thread",)),
        (with_threads(2, "3", 2.0), ("2 threads were requested, and the runtime uses 3",)),
        (with_threads(2, "1", 1.0), ("2 threads were requested, and the runtime uses 1",)),
        (with_threads(2, "3", 3.0), ("the runtime uses 3", "used 3.00 processors")),
        (with_threads(2, "many", 1.0), ()),
        (with_threads(2, "3", 3.0, device="cuda:0 NVIDIA H200"), ()),
    ],
)
def test_more_or_fewer_threads_than_the_case_s_are_a_finding(
    evidence: Evidence, found: tuple[str, ...]
) -> None:
    findings = judge(evidence)
    assert {finding.code for finding in findings} <= {"thread-budget"}
    assert len(findings) == len(found)
    for finding, text in zip(findings, found, strict=True):
        assert text in finding.message


def test_accuracy_that_was_requested_and_is_missing_is_a_finding() -> None:
    (finding,) = judge(replace(FINE, accuracy=None, accuracy_missing="no time"))
    assert (finding.code, finding.message) == ("accuracy-lost", "no time")


def test_every_module_is_registered_and_has_its_page() -> None:
    modules = {
        name
        for _, name, _ in pkgutil.iter_modules(resnext_bench.checks.__path__)
        if name not in ("evidence", "registry")
    }
    found = {import_module(f"resnext_bench.checks.{name}").CODE for name in modules}
    assert found == set(CHECKS) == set(FAULTS)
    for code, check in CHECKS.items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)+", code)
        assert check.code == code
        title, blank, *rest = check.page.splitlines()
        assert (title, blank) == (f"# {code}", "")
        assert "What to do: " in "\n".join(rest)


def test_two_checks_of_one_code_are_refused() -> None:
    first, second = ModuleType("first"), ModuleType("second")
    for module in (first, second):
        module.CODE = "same"  # type: ignore[attr-defined]  # the point of the test
        module.findings = lambda _: ()  # type: ignore[attr-defined]  # the point of the test
    with pytest.raises(ValueError, match="two checks have the code 'same'"):
        registry(first, second)
