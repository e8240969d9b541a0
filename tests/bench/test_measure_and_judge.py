"""Measuring over sessions that behave and sessions that do not. Every planted fault must show in
its row.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

import resnext_bench.run as bench_run
from fakes.calm import calm
from resnext.errors import MissingRequirement, SessionFailed
from resnext.network.config import VARIANTS, ResNeXtConfig
from resnext.network.layers import layers
from resnext.runtimes.pytorch import door as torch_door
from resnext.runtimes.registry import SessionOptions
from resnext.runtimes.session import Delivered, DeliveredLayer, Session
from resnext.testing import FakeSession
from resnext.verify import eager
from resnext.verify.labeled import Labeled
from resnext.verify.parity import Parity, compare
from resnext.weights.spec import Weights, load_weights
from resnext_bench import benchmark, opening
from resnext_bench import rows as bench_rows
from resnext_bench.checks.evidence import Evidence
from resnext_bench.checks.registry import judge
from resnext_bench.cli.bench import exit_code
from resnext_bench.measure import Samples, Subject, measure
from resnext_bench.plan import Case, Plan
from resnext_bench.result import Run
from resnext_bench.run import run_benchmark
from resnext_bench.stats import timing_of

QUICK = {"duration_s": 0.05, "rounds": 6, "warmup_s": 0.0}


def reasons_against(samples: Samples, batch: int, *evidence: Any) -> tuple[str, ...]:
    timings = [timing_of("host", samples.host_ns, batch)]
    if samples.device_ns:
        timings.append(timing_of(samples.device_boundary or "device", samples.device_ns, batch))
    return tuple(map(str, judge(Evidence(samples, tuple(timings), *evidence))))


def subject(session: Session) -> Subject:
    inputs = {"input": np.zeros((1, 1), np.float32)}
    return Subject(session, inputs, session.bind(inputs))


def test_cases_take_turns_in_every_round() -> None:
    visits: list[str] = []

    class Recording(FakeSession):
        def run(self, inputs: Any) -> dict[str, NDArray[Any]]:
            if not visits or visits[-1] != self.tag:
                visits.append(self.tag)
            return super().run(inputs)

        tag = ""

    sessions = {Case(name, 1): Recording() for name in "abc"}
    for case, session in sessions.items():
        session.tag = case.backend
    plan = Plan(tuple(sessions), duration_s=0.01, rounds=6, warmup_s=0)
    samples = measure({case: subject(session) for case, session in sessions.items()}, plan).samples
    assert all(len(found.host_ns) == 6 for found in samples.values())
    assert (
        len(visits) >= 3 + 6 * 3 - 6
    )  # neighbors in the list may be the same case at a seam of rounds
    assert all(visits.count(name) >= 4 for name in "abc")


def test_warm_up_and_the_first_run_of_a_visit_are_not_timed() -> None:
    calls = 0

    def slow_at_first(images: NDArray[Any]) -> NDArray[Any]:
        nonlocal calls
        calls += 1
        if calls <= 3:
            time.sleep(0.05)
        return np.zeros((len(images), 2), np.float32)

    case = Case("a", 1)
    found = measure(
        {case: subject(FakeSession(slow_at_first))}, Plan((case,), 0.01, 2, 0.0)
    ).samples[case]
    assert found.warmup_runs >= 3
    assert max(max(burst) for burst in found.host_ns) < 0.04e9


def test_a_session_that_fails_keeps_its_error_and_the_others_go_on() -> None:
    calls = 0

    def breaks(images: NDArray[Any]) -> NDArray[Any]:
        nonlocal calls
        calls += 1
        if calls > 6:
            raise SessionFailed("planted")
        return np.zeros((len(images), 2), np.float32)

    bad, good = Case("bad", 1), Case("good", 1)
    plan = Plan((bad, good), **QUICK)  # type: ignore[arg-type]  # mixed value types
    samples = measure(
        {bad: subject(FakeSession(breaks)), good: subject(FakeSession())}, plan
    ).samples
    assert str(samples[bad].error) == "planted"
    assert samples[good].error is None
    assert len(samples[good].host_ns) == 6


@pytest.fixture(scope="module")
def digits() -> Weights:
    return load_weights("digits")


Alter = Callable[[NDArray[Any]], NDArray[Any]]
DIGITS = VARIANTS["resnext11_8x4d_digits"]


class Whole(FakeSession):
    """Says that every layer of the digits network got ``precision``, except those in ``other``."""

    precision = "float32"
    other: ClassVar[dict[str, str]] = {}

    def delivered(self) -> Delivered:
        names = [layer.name for layer in layers(DIGITS)]
        return Delivered(
            "cpu",
            tuple(
                DeliveredLayer(n, "Conv", self.other.get(n, self.precision), "cpu", (n,))
                for n in names
            ),
        )


def bench(
    digits: Weights,
    monkeypatch: pytest.MonkeyPatch,
    alter: Alter,
    session_class: type[FakeSession] = Whole,
    labeled: Labeled | None = None,
) -> Run:
    """A run of one fake backend that computes the right logits and then ``alter``s them."""

    def correct(images: NDArray[Any]) -> NDArray[Any]:
        return eager.reference_logits(digits, images).astype(np.float32)

    def open_fake(*_: Any, **__: Any) -> Session:
        return session_class(lambda images: alter(correct(images)), (1, 8, 8), 10)

    monkeypatch.setattr(opening, "open_session", open_fake)
    plan = Plan((Case("torch", 7),), **QUICK)  # type: ignore[arg-type]  # mixed value types
    return run_benchmark(digits, plan, options=SessionOptions(device="cpu"), accuracy=labeled)


def test_a_right_backend_is_valid(digits: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    calm(monkeypatch)  # a busy test machine proves nothing here
    run = bench(digits, monkeypatch, lambda logits: logits)
    assert run.rows[0].status == "valid", run.rows[0].reasons
    assert exit_code(run) == 0


def poisoned(logits: NDArray[Any]) -> NDArray[Any]:
    logits[3, 2] = np.nan
    return logits


def test_answers_that_are_wrong_on_labeled_images_make_the_row_invalid(
    digits: Weights, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    calm(monkeypatch)
    labeled = Labeled("digits", digits, 100, tmp_path)
    right = bench(digits, monkeypatch, lambda logits: logits, labeled=labeled).rows[0]
    assert right.status == "valid", right.reasons
    wrong = bench(
        digits, monkeypatch, lambda logits: np.roll(logits, 1, axis=1), labeled=labeled
    ).rows[0]
    assert "first classes agree" in "; ".join(wrong.reasons)
    assert wrong.accuracy is not None
    assert wrong.accuracy.losing_flips > 90
    nan = bench(
        digits, monkeypatch, lambda logits: logits * np.float32(np.nan), labeled=labeled
    ).rows[0]
    assert "100 of 100 images give NaN" in "; ".join(nan.reasons)


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (poisoned, "1 NaN"),
        (lambda logits: logits[::-1].copy(), "rows are swapped"),
        (lambda logits: logits[:1].repeat(len(logits), axis=0), "rows are swapped or repeated"),
        (lambda logits: logits + 0.01 * np.abs(logits).max(), "max error"),
        (lambda logits: logits[:3], "shape is"),
        (lambda logits: logits.astype(np.float16), "dtype is float16"),
        (lambda logits: np.zeros_like(logits), "max error"),
    ],
)
def test_a_wrong_output_makes_the_row_invalid(
    digits: Weights, monkeypatch: pytest.MonkeyPatch, alter: Alter, reason: str
) -> None:
    run = bench(digits, monkeypatch, alter)
    assert run.rows[0].status == "invalid"
    assert reason in "; ".join(run.rows[0].reasons)
    assert exit_code(run) == 1


def test_a_wrong_row_between_the_compared_ones_is_found_when_not_finite(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_rows, "_COMPARED_ROWS", 2)  # rows 0 and 6; the NaN sits in row 3
    assert "NaN" in "; ".join(bench(digits, monkeypatch, poisoned).rows[0].reasons)


def test_a_precision_that_was_not_delivered_makes_the_row_invalid(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mixed(Whole):
        other: ClassVar[dict[str, str]] = {"layer1.0.conv2": "float16"}

    macs = {layer.name: layer.macs for layer in layers(DIGITS)}
    share = 1 - macs["layer1.0.conv2"] / sum(macs.values())
    run = bench(digits, monkeypatch, lambda logits: logits, Mixed)
    (reason,) = [reason for reason in run.rows[0].reasons if "FLOPs" in reason]
    assert (
        reason
        == f"fp32 asked for, but only {100 * share:.1f} % of convolution and product FLOPs got"
        " float32: layer1.0.conv2 float16"
    )
    assert run.rows[0].status == "invalid"


def test_a_long_list_of_layers_without_their_precision_is_cut_and_counted() -> None:
    class Half(Whole):
        precision = "float16"

    found = verdict(STEADY, of=Half())
    assert "only 0.0 % of" in found
    assert found.endswith(
        "conv1 float16, layer1.0.conv1 float16, layer1.0.conv2 float16 and 11 more"
    )
    unseen = verdict(STEADY, of=FakeSession())
    assert "conv1 unseen, layer1.0.conv1 unseen" in unseen


def test_a_share_just_below_all_is_not_rounded_up_to_all() -> None:
    config = VARIANTS["resnext50_32x4d"]
    names = [layer.name for layer in layers(config)]
    most = Delivered(
        "cpu", tuple(DeliveredLayer(n, "Conv", "float32", "cpu", (n,)) for n in names if n != "fc")
    )
    samples = Samples([[1000] * 4] * 4)
    *_, reason = reasons_against(
        samples, 1, None, most, config, "fp32"
    )  # fc is 0.048 % of the network
    assert "only 99.9 % of" in reason
    assert reason.endswith(": fc unseen")


def verdict(host_ns: list[list[int]], of: FakeSession | None = None, **device: Any) -> str:
    delivered = (of or Whole()).delivered()
    return "; ".join(
        reasons_against(Samples(host_ns, **device), 1, None, delivered, DIGITS, "fp32")
    )


def test_where_tf32_is_allowed_it_and_float32_are_both_delivered() -> None:
    class Rounded(Whole):
        other: ClassVar[dict[str, str]] = {"conv1": "tfloat32"}

    class Narrow(Whole):
        other: ClassVar[dict[str, str]] = {"conv1": "float16"}

    def judged(session: FakeSession, precision: str) -> str:
        return reasons_against(Samples(STEADY), 1, None, session.delivered(), DIGITS, precision)[-1]

    assert "FLOPs" not in judged(Rounded(), "tf32")
    assert judged(Rounded(), "fp32").endswith("conv1 tfloat32")
    assert judged(Narrow(), "tf32").endswith("got tfloat32 or float32: conv1 float16")


def test_a_runtime_that_does_not_tell_is_believed_at_fp32_alone_and_only_if_parity_agrees() -> None:
    class Silent(Whole):
        precision = "unknown"

    class Half(Whole):
        precision = "unknown"
        other: ClassVar[dict[str, str]] = {"conv1": "float16"}

    logits = (np.arange(12).reshape(3, 4) + np.eye(3, 4)).astype(np.float32)
    right, wrong = compare(logits, logits), compare(logits, logits[::-1])

    def judged(session: FakeSession, parity: Parity, precision: str) -> str:
        return "; ".join(
            reasons_against(Samples(STEADY), 1, parity, session.delivered(), DIGITS, precision)
        )

    assert judged(Silent(), right, "fp32") == ""
    assert "does not tell" in judged(Silent(), wrong, "fp32")
    assert "does not tell" in judged(Silent(), right, "fp16")
    assert "conv1 float16" in judged(Half(), right, "fp32")


def test_too_few_samples_and_an_unsteady_machine_make_a_row_invalid() -> None:
    few = verdict([[100] * 5])
    assert "only 5 host samples" in few
    assert "not compared" in few
    assert "drifted by +185%" in verdict([[100 + 60 * i] * 5 for i in range(6)])
    assert "80% slower than the quietest" in verdict(
        [*[[180] * 5] * 3, [100] * 5, *[[180] * 5] * 3]
    )
    assert "took no time" in verdict([[0] * 12])


STEADY = [[1000] * 4] * 4


@pytest.mark.parametrize(
    ("device_ns", "wall_ns", "reason"),
    [
        ([[0] * 4] * 4, [4000] * 4, "a graph run took no time"),
        (
            [[2] * 4] * 4,
            [4000] * 4,
            "the events are not around the work",
        ),  # events on an idle stream
        (
            [[1000] * 4] * 4,
            [1000] * 4,
            "the events are not around the work",
        ),  # more time than there was
        ([[1000] * 2] * 4, [2000] * 4, "only 8 graph samples"),
        (
            [[1000 + 700 * i] * 4 for i in range(4)],
            [4000 + 2800 * i for i in range(4)],
            "graph times drifted by +210%",
        ),
    ],
)
def test_device_times_are_judged_like_host_times(
    device_ns: list[list[int]], wall_ns: list[int], reason: str
) -> None:
    found = verdict(STEADY, device_ns=device_ns, device_wall_ns=wall_ns, device_boundary="graph")
    assert reason in found


def test_steady_device_times_that_account_for_the_wall_time_are_accepted() -> None:
    found = verdict(STEADY, device_ns=STEADY, device_wall_ns=[4200] * 4, device_boundary="graph")
    assert found == "its output was not compared"


def test_an_error_that_is_none_of_ours_ends_its_case_alone() -> None:
    def breaks(_: NDArray[Any]) -> NDArray[Any]:
        raise RuntimeError("CUDA error: out of memory\nmore lines")

    bad, good = Case("bad", 1), Case("good", 1)
    plan = Plan((bad, good), **QUICK)  # type: ignore[arg-type]  # mixed value types
    samples = measure(
        {bad: subject(FakeSession(breaks)), good: subject(FakeSession())}, plan
    ).samples
    assert str(samples[bad].error) == "RuntimeError: CUDA error: out of memory"
    assert len(samples[good].host_ns) == 6


def test_a_wrong_first_row_is_no_yardstick_for_speed(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm(monkeypatch)
    plan = Plan((Case("torch-compile", 2), Case("torch", 2)), **QUICK)  # type: ignore[arg-type]  # mixed value types

    def wrong_first(_subject: Any, name: str, options: Any) -> Session:
        if name == "torch-compile":
            return FakeSession(lambda images: np.ones((len(images), 10), np.float32), (1, 8, 8), 10)
        return torch_door.open_session(digits, options, "torch")

    monkeypatch.setattr(opening, "open_session", wrong_first)
    run = run_benchmark(digits, plan, options=SessionOptions(device="cpu"))
    assert [row.status for row in run.rows] == ["invalid", "valid"]
    assert [row.timings[0].speedup for row in run.rows] == [None, None]


def test_a_backend_that_cannot_open_has_its_row_with_the_reason_and_the_rest_goes_on(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resnext.runtimes.registry import open_session as real

    def no_gpu(subject: Any, name: str, options: Any) -> Session:
        if name == "torch-compile":
            raise MissingRequirement("no compiler here")
        return real(subject, name, options=options)

    calm(monkeypatch)
    monkeypatch.setattr(opening, "open_session", no_gpu)
    plan = Plan((Case("torch-compile", 2), Case("torch", 2)), **QUICK)  # type: ignore[arg-type]  # mixed value types
    run = run_benchmark(digits, plan, options=SessionOptions(device="cpu"))
    failed, fine = run.rows
    assert (failed.status, failed.reasons, failed.exit_code) == ("failed", ("no compiler here",), 3)
    assert fine.timings
    assert fine.status == "valid", fine.reasons
    # the first that was measured is the base
    assert fine.timings[0].speedup == pytest.approx((1.0, 1.0, 1.0))
    assert exit_code(run) == 3


def test_stored_statistics_are_derived_from_the_stored_samples(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resnext_bench.stats import derive

    calm(monkeypatch)
    run = bench(digits, monkeypatch, lambda logits: logits)
    timing = run.rows[0].timings[0]
    assert timing.stats == derive(timing.rounds_ns, 7)
    assert Run.model_validate_json(run.model_dump_json()) == run


def test_sessions_are_closed_also_when_measuring_is_interrupted(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[FakeSession] = []

    class Tracked(FakeSession):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            opened.append(self)

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_run, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench(digits, monkeypatch, lambda logits: logits, Tracked)
    assert [session.closed for session in opened] == [True]


def test_the_reference_is_that_of_the_weights_and_not_of_the_backend(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(digits, state_dict={k: v * 1.01 for k, v in digits.state_dict.items()})

    def of_other_weights(_subject: Any, _name: str, options: Any) -> Session:
        return torch_door.open_session(other, options, "torch")

    monkeypatch.setattr(opening, "open_session", of_other_weights)
    plan = Plan((Case("torch", 2),), **QUICK)  # type: ignore[arg-type]  # mixed value types
    run = run_benchmark(digits, plan, options=SessionOptions(device="cpu"))
    assert "wrong output" in "; ".join(run.rows[0].reasons)


def test_one_logit_is_judged_by_what_the_precision_loses_on_more_images() -> None:
    """On the one timed image the file itself loses 0.003 of its logit, and OpenVINO 0.022."""
    config = ResNeXtConfig(
        depths=(1, 1),
        cardinality=4,
        input_size=(16, 16),
        num_classes=1,
        stem="small",
        stem_channels=16,
    )
    run = benchmark(
        "openvino",
        weights=load_weights("seeded:4", config),
        precision="int8",
        calibration="random",
        duration=0.05,
        rounds=2,
        warmup=0.0,
        samples=1,
    )
    (row,) = run.rows
    assert row.parity is not None, row.reasons
    assert row.parity.passed, row.parity.failures
    assert row.parity.rows == 29
