from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest

from resnext.errors import UnknownName, UsageError
from resnext.images.synthetic import seeded_pixels
from resnext.network.config import ResNeXtConfig
from resnext.network.forms import fold_batch_norms
from resnext.precision import NUMERICS, PRESETS, Gate
from resnext.verify.adversarial import compare_adversarial
from resnext.verify.margins import clopper_pearson
from resnext.verify.parity import (
    Limit,
    Parity,
    compare,
    discriminates,
    gate_for,
    images_to_compare,
)
from resnext.verify.reference import Reference
from resnext.weights.spec import load_model, load_weights

Logits = NDArray[np.float64]


@pytest.fixture
def reference() -> Logits:
    return np.random.default_rng(0).normal(size=(12, 10)) * 3


def rms(values: Logits) -> float:
    return float(np.sqrt((values**2).mean()))


def reasons(outcome: Parity) -> str:
    assert not outcome.passed
    assert outcome.failures
    return "; ".join(outcome.failures)


def test_the_same_logits_pass_with_every_metric_perfect(reference: Logits) -> None:
    exact = reference.astype(np.float32)
    outcome = compare(exact.astype(np.float64), exact, artifact_sha256="a" * 64)
    assert outcome.passed
    assert outcome.failures == ()
    assert (outcome.max_abs, outcome.mean_abs, outcome.max_error, outcome.mean_error) == (
        0,
        0,
        0,
        0,
    )
    assert (outcome.max_relative, outcome.mean_relative) == (0, 0)
    assert (outcome.rows, outcome.top1, outcome.top5) == (12, 1, 1)
    assert outcome.min_cosine == pytest.approx(1)
    assert outcome.artifact_sha256 == "a" * 64


@pytest.mark.parametrize(
    "values",
    [
        [[0.0], [1.0]],  # a row without a direction
        [[0.0, 0.0], [1.0, -2.0]],
        [[1.0, 1.0, 1.0]],  # all tied
        [[-5.0]],
        [[1e-20, 2e-20], [3e-20, 1e-20]],
        [[1e20, -1e20], [1.0, 2.0]],
        [[1e-20, 2e-20], [3.0, 1.0]],
        [[1000.0, 999.99994], [0.0, 1.0]],
    ],
)
def test_any_logits_pass_against_themselves(values: list[list[float]]) -> None:
    same = np.array(values, np.float32)
    outcome = compare(same, same.copy(), baseline=same)
    assert outcome.passed, outcome.failures


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (7, 3), (slice(None), slice(None))])
def test_nan_and_infinity_fail_wherever_they_are(
    reference: Logits, value: float, place: Any
) -> None:
    candidate = reference.astype(np.float32)
    candidate[place] = value
    outcome = compare(reference, candidate, gate=Gate(np.inf, -1, 0, np.inf))
    assert ("NaN" if np.isnan(value) else "infinite") in reasons(outcome)
    assert f"first in row {7 if place == (7, 3) else 0}" in reasons(outcome)
    assert outcome.max_error is None
    assert outcome.top1 is None


def test_the_numbers_of_nan_and_infinite_values_are_told_apart(reference: Logits) -> None:
    candidate = reference.astype(np.float32)
    candidate[1, :3], candidate[2, :2] = np.nan, np.inf
    assert "3 NaN and 2 infinite values, first in row 1" in reasons(compare(reference, candidate))


@pytest.mark.parametrize("shape", [(12, 9), (11, 10), (12, 10, 1), (120,), (1, 10), (0, 10), ()])
def test_another_shape_fails_even_where_it_would_broadcast(
    reference: Logits, shape: tuple[int, ...]
) -> None:
    outcome = compare(reference, np.zeros(shape, np.float32))
    assert f"shape is {shape}, want (12, 10)" in reasons(outcome)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32"])
def test_another_dtype_fails_whatever_the_values(dtype: str) -> None:
    whole = np.arange(20.0).reshape(4, 5)
    assert reasons(compare(whole, whole.astype(dtype))) == f"dtype is {dtype}, want float32"


def test_the_wanted_dtype_can_be_named(reference: Logits) -> None:
    half = reference.astype(np.float16)
    assert compare(half.astype(np.float64), half, dtype="float16").passed


def test_swapped_rows_fail_and_are_named_as_such(reference: Logits) -> None:
    candidate = reference.astype(np.float32)
    candidate[[0, 1]] = candidate[[1, 0]]
    assert "rows are swapped or repeated" in reasons(compare(reference, candidate))


def test_a_repeated_row_fails_and_is_named_as_such(reference: Logits) -> None:
    candidate = np.repeat(reference.astype(np.float32)[:1], 12, axis=0)
    assert "rows are swapped or repeated" in reasons(compare(reference, candidate))


def test_rows_within_a_wide_limit_of_each_other_are_not_called_swapped(reference: Logits) -> None:
    wide = Gate(5.0, 0.9, 0.0, np.inf)
    assert np.ptp(reference, axis=0).max() < 5.0 * rms(reference)
    candidate = reference.astype(np.float32)
    candidate[0] -= 0.9 * candidate[0] - 0.9 * candidate[1]  # nearer to another
    found = reasons(compare(reference, candidate, gate=wide))
    assert "cosine" in found
    assert "swapped" not in found


def test_constant_rows_fail_and_are_named_as_such(reference: Logits) -> None:
    candidate = np.tile(reference.mean(axis=0).astype(np.float32), (12, 1))
    assert "the output does not depend on the input" in reasons(compare(reference, candidate))


def test_swapped_classes_get_no_wrong_diagnosis(reference: Logits) -> None:
    candidate = reference.astype(np.float32)[:, ::-1].copy()
    text = reasons(compare(reference, candidate))
    assert "swapped" not in text
    assert "does not depend" not in text


@pytest.mark.parametrize(
    ("factor", "passes"), [(0.5, True), (0.99, True), (1.01, False), (100.0, False)]
)
def test_one_wrong_value_passes_up_to_the_gate_and_no_further(
    reference: Logits, factor: float, passes: bool
) -> None:
    gate = Gate(max_error=1e-2, min_cosine=0.9, min_top1=0.0, max_error_ratio=np.inf)
    candidate = reference.astype(np.float32)
    candidate[3, 4] += np.float32(factor * gate.max_error * rms(reference))
    outcome = compare(reference, candidate, gate=gate)
    assert outcome.passed == passes
    assert outcome.max_error == pytest.approx(factor * gate.max_error, rel=1e-3)
    if not passes:
        assert "max error" in reasons(outcome)


def test_the_metrics_are_those_of_their_definition(reference: Logits) -> None:
    candidate = (reference + np.random.default_rng(1).normal(size=reference.shape) * 0.1).astype(
        np.float32
    )
    difference = np.abs(candidate.astype(np.float64) - reference)
    outcome = compare(reference, candidate)
    assert outcome.max_abs == pytest.approx(difference.max())
    assert outcome.mean_abs == pytest.approx(difference.mean())
    assert outcome.max_error == pytest.approx(difference.max() / rms(reference))
    assert outcome.mean_error == pytest.approx(difference.mean() / rms(reference))
    ratio = (difference / np.abs(reference))[np.abs(reference) > 1e-3 * rms(reference)]
    assert outcome.max_relative == pytest.approx(ratio.max())
    assert outcome.mean_relative == pytest.approx(ratio.mean())
    cosine = [
        float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        for a, b in zip(candidate.astype(np.float64), reference, strict=True)
    ]
    assert outcome.min_cosine == pytest.approx(min(cosine))
    assert outcome.top1 == (candidate.argmax(1) == reference.argmax(1)).mean()
    sets = [
        set(np.argsort(a)[-5:]) == set(np.argsort(b)[-5:])
        for a, b in zip(candidate, reference, strict=True)
    ]
    assert outcome.top5 == pytest.approx(np.mean(sets))


def test_a_turned_row_fails_on_its_cosine(reference: Logits) -> None:
    gate = Gate(max_error=np.inf, min_cosine=0.999, min_top1=0.0, max_error_ratio=np.inf)
    candidate = reference.astype(np.float32)
    candidate[5] = -candidate[5]
    assert "in row 5" in reasons(compare(reference, candidate, gate=gate))


def test_a_changed_first_class_fails_however_small_the_error() -> None:
    reference = np.array([[1.0, 1.01, 0.0], [3.0, 1.0, 0.0]])
    candidate = np.array([[1.02, 1.01, 0.0], [3.0, 1.0, 0.0]], np.float32)
    gate = Gate(max_error=0.1, min_cosine=0.99, min_top1=1.0, max_error_ratio=np.inf)
    outcome = compare(reference, candidate, gate=gate)
    assert "top-1 agrees in 1 of 2 rows" in reasons(outcome)
    assert outcome.top1 == 0.5


def test_a_tie_in_the_reference_may_fall_either_way() -> None:
    reference = np.array([[2.0, 2.0 + 1e-7, 0.0], [3.0, 1.0, 0.0]])
    candidate = np.array([[2.0, 2.0 - 2e-7, 0.0], [3.0, 1.0, 0.0]], np.float32)
    assert candidate[0].argmax() != reference[0].argmax()
    outcome = compare(reference, candidate)
    assert outcome.passed, outcome.failures
    assert outcome.top1 == 0.5  # as it was, though it is forgiven


def test_a_tie_of_the_losers_forgives_nothing() -> None:
    reference = np.array([[2.0, 1.0, 1.0], [3.0, 1.0, 0.0]])
    candidate = np.array([[1.0, 2.0, 1.0], [3.0, 1.0, 0.0]], np.float32)
    gate = Gate(max_error=np.inf, min_cosine=-1, min_top1=1.0, max_error_ratio=np.inf)
    assert "top-1" in reasons(compare(reference, candidate, gate=gate))


def test_the_error_ratio_is_over_what_the_baseline_loses(reference: Logits) -> None:
    eager = (reference + 1e-3).astype(np.float32)
    candidate = (reference + 3e-3).astype(np.float32)
    loose = Gate(max_error=1.0, min_cosine=0.0, min_top1=0.0, max_error_ratio=2.0)
    outcome = compare(reference, candidate, gate=loose, baseline=eager)
    assert outcome.error_ratio == pytest.approx(3, rel=1e-2)
    assert "3.0 times what its precision costs, allowed 2" in reasons(outcome)
    assert compare(reference, candidate, gate=Gate(1.0, 0.0, 0.0, 4.0), baseline=eager).passed
    assert compare(reference, candidate, gate=loose).error_ratio is None


def test_rows_that_the_precision_itself_overflows_on_show_no_cost(reference: Logits) -> None:
    candidate = (reference + 1e-3).astype(np.float32)
    baseline = candidate.copy()
    gate = Gate(0.1, 0.9, 0.9, max_error_ratio=2.0)
    whole = compare(reference, candidate, gate=gate, baseline=baseline)
    baseline[1:] = np.inf
    some = compare(reference, candidate, gate=gate, baseline=baseline)
    assert some.passed
    assert some.loss == pytest.approx(whole.loss, rel=0.01)
    baseline[0, 0] = np.nan
    none = compare(reference, candidate, gate=gate, baseline=baseline)
    assert (none.passed, none.loss, none.error_ratio) == (True, None, None)
    far = (reference * 1.5).astype(np.float32)
    assert "max error" in reasons(compare(reference, far, gate=gate, baseline=baseline))
    overflows = reasons(compare(reference, baseline, gate=gate, baseline=baseline))
    assert "so has the precision itself on these rows" in overflows
    with pytest.raises(UsageError, match="baseline must be of shape"):
        compare(reference, candidate, gate=gate, baseline=baseline[1:])


def test_a_perfect_baseline_does_not_fail_one_rounding(reference: Logits) -> None:
    exact = reference.astype(np.float32)
    candidate = np.nextafter(exact, np.float32(100))
    outcome = compare(exact, candidate, baseline=exact)
    assert outcome.passed, outcome.failures
    assert outcome.error_ratio is not None
    assert np.isfinite(outcome.error_ratio)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_baseline_that_is_not_finite_never_passes_in_silence(
    reference: Logits, value: float
) -> None:
    baseline = reference.astype(np.float32)
    baseline[0, 0] = value
    outcome = compare(reference, reference.astype(np.float32), baseline=baseline)
    assert "not known on 1 of 12 images" in outcome.of("torch", "").unknown
    assert Parity.model_validate_json(outcome.model_dump_json()) == outcome


@pytest.mark.parametrize("shape", [(1, 10), (12, 1), (11, 10)])
def test_a_baseline_of_another_shape_is_a_usage_error(
    reference: Logits, shape: tuple[int, ...]
) -> None:
    with pytest.raises(UsageError, match="baseline"):
        compare(reference, reference.astype(np.float32), baseline=np.ones(shape, np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_reference_that_is_not_finite_proves_nothing(reference: Logits, value: float) -> None:
    reference[2, 2] = value
    with pytest.raises(UsageError, match="reference"):
        compare(reference, reference.astype(np.float32))


@pytest.mark.parametrize("shape", [(0, 10), (4, 0), (10,), (2, 3, 4), ()])
def test_a_reference_of_no_use_is_a_usage_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="reference"):
        compare(np.ones(shape), np.ones(shape, np.float32))


def test_a_reference_of_zeros_proves_nothing() -> None:
    with pytest.raises(UsageError, match="all zero"):
        compare(np.zeros((3, 4)), np.zeros((3, 4), np.float32))


def test_a_network_of_one_class_can_be_compared() -> None:
    reference = np.array([[1.0], [2.0], [-3.0]])
    assert compare(reference, reference.astype(np.float32)).passed
    assert not compare(reference, -reference.astype(np.float32)).passed


def test_a_single_row_can_be_compared(reference: Logits) -> None:
    assert compare(reference[:1], reference[:1].astype(np.float32)).passed
    assert not compare(reference[:1], reference[1:2].astype(np.float32)).passed


def test_the_inputs_are_left_as_they_were(reference: Logits) -> None:
    candidate = reference.astype(np.float32)
    original, original_candidate = reference.copy(), candidate.copy()
    compare(reference, candidate, baseline=candidate)
    assert np.array_equal(reference, original)
    assert np.array_equal(candidate, original_candidate)


def test_a_passed_and_a_failed_outcome_survive_json(reference: Logits) -> None:
    for candidate in (reference.astype(np.float32), np.full(reference.shape, np.nan, np.float32)):
        outcome = compare(reference, candidate)
        assert Parity.model_validate_json(outcome.model_dump_json()) == outcome


def noisy(reference: Logits, size: float, seed: int = 1) -> NDArray[np.float32]:
    noise = np.random.default_rng(seed).normal(size=reference.shape)
    return (reference + size * noise).astype(np.float32)


def test_each_limit_says_by_how_much_it_passed(reference: Logits) -> None:
    outcome = compare(reference, noisy(reference, 2e-5), baseline=noisy(reference, 1e-5, 2))
    limits = {limit.name: limit for limit in outcome.limits}
    assert list(limits) == ["max_error", "error_ratio", "mean_ratio", "min_cosine", "top1"]
    assert outcome.passed
    assert all(limit.passed for limit in limits.values())
    assert limits["max_error"].actual == outcome.max_error
    assert limits["error_ratio"].actual == outcome.error_ratio
    assert limits["min_cosine"].actual == outcome.min_cosine
    assert limits["error_ratio"].allowed == NUMERICS["fp32"].gate.max_error_ratio
    assert limits["mean_ratio"].actual == pytest.approx(2, rel=0.2)


def test_a_gate_of_what_would_pass_passes_and_a_tighter_one_does_not(reference: Logits) -> None:
    candidate, baseline = noisy(reference, 2e-3), noisy(reference, 1e-3, 2)
    candidate[0] = candidate[0, ::-1]
    worst = {limit.name: limit.would_pass for limit in limits_of(reference, candidate, baseline)}
    fields = ("max_error", "min_cosine", "top1", "error_ratio", "mean_ratio")
    values = [worst[name] for name in fields]  # type: ignore[index]  # names of metrics
    assert compare(reference, candidate, gate=gate_of(*values), baseline=baseline).passed
    for index, name in enumerate(fields):
        looser = name in ("min_cosine", "top1")
        tighter = list(values)
        tighter[index] = 1 - 0.85 * (1 - values[index]) if looser else 0.85 * values[index]
        outcome = compare(reference, candidate, gate=gate_of(*tighter), baseline=baseline)
        assert [limit.name for limit in outcome.limits if not limit.passed] == [name]


def gate_of(error: float, cosine: float, top1: float, ratio: float, mean_ratio: float) -> Gate:
    return Gate(error, cosine, top1, ratio, mean_ratio)


def limits_of(
    reference: Logits, candidate: NDArray[Any], baseline: NDArray[Any]
) -> tuple[Limit, ...]:
    outcome = compare(reference, candidate, baseline=baseline)
    assert not outcome.passed
    return outcome.limits


@pytest.mark.parametrize(("size", "passes"), [(2.0, "strict"), (4.0, "default"), (12.0, "loose")])
def test_a_preset_is_a_multiple_of_what_the_precision_loses(
    reference: Logits, size: float, passes: str
) -> None:
    baseline = (reference + 1e-6 * rms(reference) * 10).astype(np.float32)
    candidate = (reference + size * 1e-5 * rms(reference)).astype(np.float32)
    for preset in PRESETS:
        outcome = compare(reference, candidate, gate=preset, baseline=baseline)
        assert outcome.gate == preset
        assert outcome.passed == (list(PRESETS).index(preset) >= list(PRESETS).index(passes))


def test_presets_of_every_precision_are_ordered_and_an_unknown_one_is_refused() -> None:
    for name in NUMERICS:
        strict, default, loose = (gate_for(name, preset) for preset in PRESETS)
        assert strict.max_error_ratio < default.max_error_ratio < loose.max_error_ratio
        assert strict.max_error < default.max_error < loose.max_error
        assert strict.min_cosine > default.min_cosine > loose.min_cosine
        assert strict.min_top1 == default.min_top1 == loose.min_top1
        assert loose.min_cosine >= 0.5  # what is orthogonal is another function
    with pytest.raises(UnknownName, match="unknown gate 'lose'; did you mean 'loose'"):
        gate_for("fp32", "lose")
    with pytest.raises(UnknownName, match="gate"):
        compare(np.eye(3), np.eye(3, dtype=np.float32), gate="lose")


def test_shallow_networks_have_a_least_loss_of_a_few_roundings(reference: Logits) -> None:
    eps = float(np.finfo(np.float32).eps)
    lucky = reference.astype(np.float32).astype(np.float64)
    candidate = (lucky * (1 + 5 * eps)).astype(np.float32)
    outcome = compare(lucky, candidate, baseline=lucky)
    assert outcome.passed, outcome.failures
    assert outcome.loss == 0
    assert not compare(lucky, (lucky * (1 + 60 * eps)).astype(np.float32), baseline=lucky).passed


def test_flips_are_split_by_margin_and_bounded_beyond_the_noise() -> None:
    reference = np.zeros((40, 4))
    reference[:, 0], reference[:, 1] = 1.0, 0.999
    reference[20:, 1] = 0.0  # sure of these
    candidate = reference.astype(np.float32)
    candidate[:3, :2] = candidate[:3, 1::-1]
    baseline = reference + 5e-3
    gate = Gate(np.inf, -1, 0, np.inf)
    flips = compare(reference, candidate, gate=gate, baseline=baseline).flips
    assert flips is not None
    assert (flips.by_margin[0].images, flips.by_margin[0].flips) == (20, 3)
    assert (flips.clear_images, flips.clear_flips) == (20, 0)
    assert flips.clear_rate_high == pytest.approx(binomtest(0, 20).proportion_ci().high)
    candidate[30, :2] = candidate[30, 1::-1]
    flips = compare(reference, candidate, gate=gate, baseline=baseline).flips
    assert flips is not None
    assert flips.clear_flips == 1
    assert flips.clear_rate_high == pytest.approx(binomtest(1, 20).proportion_ci().high)


def test_the_worst_image_is_named(reference: Logits) -> None:
    candidate = reference.astype(np.float32)
    candidate[7, 2] += 1.0
    (kind,) = compare(reference, candidate, images="pictures").inputs
    assert (kind.name, kind.images, kind.worst) == ("pictures", 12, 7)


def test_an_adversarial_input_is_measured_by_its_own_logits(reference: Logits) -> None:
    large = np.concatenate([reference[:1], reference[1:2] * 1e6])
    off = large.astype(np.float32)
    off[0] *= np.float32(1.001)
    gate = gate_for("fp32")
    kinds, failures = compare_adversarial(["small", "large"], large, off, gate=gate)
    assert [round(kind.max_error or 0, 3) for kind in kinds] == [0.002, 0.0]
    assert len(failures) == 1
    assert "small" in failures[0]
    assert "large" not in failures[0]


def test_a_quantized_network_is_held_against_its_own_graph_where_it_clips() -> None:
    want = np.array([[100.0, -50.0, 3.0]])
    clipped = np.array([[9.0, -9.0, 3.0]])
    gate = gate_for("int8")
    judge = partial(compare_adversarial, ["large"], want, gate=gate, loss=0.01, saturates=True)
    same = clipped.astype(np.float32)
    assert judge(same, baseline=clipped)[1] == ()
    assert judge(want.astype(np.float32), baseline=clipped)[1] != ()
    assert judge(same)[1] == ()  # no graph: finite is all that can be said


def test_adversarial_logits_of_another_shape_fail(reference: Logits) -> None:
    _, failures = compare_adversarial(
        ["zeros"], reference[:1], reference.astype(np.float32), gate=gate_for("fp32")
    )
    assert failures == ("adversarial inputs: shape is (12, 10), want (1, 10)",)


def test_a_stored_outcome_without_the_newer_fields_is_read(reference: Logits) -> None:
    stored = compare(reference, reference.astype(np.float32)).model_dump()
    for name in ("gate", "limits", "loss", "flips", "inputs"):
        del stored[name]
    assert Parity.model_validate(stored).gate is None


def test_a_gate_is_found_by_precision() -> None:
    assert gate_for("fp32") is NUMERICS["fp32"].gate
    with pytest.raises(UsageError, match="no parity gate for precision 'fp12'; known: fp32"):
        gate_for("fp12")


@pytest.mark.parametrize(
    ("hits", "trials"), [(0, 1), (1, 1), (0, 28), (28, 28), (27, 28), (14, 28), (1, 1000)]
)
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_clopper_pearson_is_scipys_exact_interval(
    hits: int, trials: int, confidence: float
) -> None:
    want = binomtest(hits, trials).proportion_ci(confidence, method="exact")
    assert clopper_pearson(hits, trials, confidence) == pytest.approx(
        (want.low, want.high), abs=1e-9
    )


def test_the_lower_bound_of_top1_is_clopper_pearsons(reference: Logits) -> None:
    candidate = reference.astype(np.float32)
    candidate[0] = candidate[0, ::-1]
    outcome = compare(reference, candidate)
    hits = round((outcome.top1 or 0) * 12)
    assert hits == 11
    assert outcome.top1_low == pytest.approx(binomtest(11, 12).proportion_ci(method="exact").low)


def test_rows_that_are_all_alike_do_not_discriminate(reference: Logits) -> None:
    assert discriminates(reference)
    alike = np.repeat(reference[:1], 12, axis=0)
    assert not discriminates(alike)
    assert not discriminates(alike + np.random.default_rng(0).normal(size=alike.shape) * 0.01)
    assert discriminates(reference[:1])
    assert not discriminates(np.full((4, 3), np.nan))


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_few_logits_that_are_small_by_chance_do_not_fail(classes: int) -> None:
    """One logit has no direction but its sign, which rounding may change; max_error judges it."""
    want = np.full((8, classes), 1.0)
    want[3] = 1e-3
    got = want.copy()
    got[3, 0] = -1e-3
    assert compare(want, got.astype(np.float32), precision="bf16").passed
    got[3, 0] = 3.0
    assert not compare(want, got.astype(np.float32), precision="bf16").passed
    got[3, 0], got[0] = 1e-3, -1.0
    assert not compare(want, got.astype(np.float32), precision="bf16").passed


def test_four_logits_that_are_small_by_chance_have_no_direction_either() -> None:
    want = np.ones((8, 4))
    want[3] = [1e-2, 0, 0, 0]
    got = want.copy()
    got[3] = [1e-2, 1e-2, 0, 0]
    assert compare(want, got.astype(np.float32), precision="bf16").passed
    got[0] = [1, 1, 1, 0.7]  # within the largest error, and a large row has a direction
    assert "cosine" in reasons(compare(want, got.astype(np.float32), precision="bf16"))


@pytest.mark.parametrize("classes", [1, 2, 3, 10])
def test_faults_fail_whatever_the_number_of_classes(classes: int) -> None:
    config = ResNeXtConfig(
        depths=(1, 1),
        cardinality=4,
        input_size=(16, 16),
        num_classes=classes,
        stem="small",
        stem_channels=16,
    )
    weights = load_weights("seeded", config)
    reference = Reference(weights, seeded_pixels(config, 28))
    inputs = (reference.images, reference.adversarial.images)

    def judged(network: torch.nn.Module, scale: float = 1.0) -> Parity:
        with torch.inference_mode():
            half = network.half()
            ordinary, adversarial = (half(torch.from_numpy(some).half()) for some in inputs)
        logits, extreme = ((part.float() * scale).numpy() for part in (ordinary, adversarial))
        return reference.parity(logits, "fp16", dtype="float32", adversarial=extreme)

    folded = fold_batch_norms(load_model(weights))
    assert judged(folded).passed
    assert not judged(folded, 1.01).passed
    for name in ("bn1", "fc"):
        network = load_model(weights)
        network.load_state_dict(
            {f"{name}.bias": torch.zeros_like(network.state_dict()[f"{name}.bias"])}, strict=False
        )
        assert not judged(network).passed, name


@pytest.mark.parametrize(("count", "classes", "images"), [(1, 1, 29), (7, 10, 7), (1, 10, 7)])
def test_images_with_few_logits_are_not_judged_alone(count: int, classes: int, images: int) -> None:
    assert images_to_compare(count, classes) == images
    assert images_to_compare(count, 1000) == count


@pytest.mark.parametrize(("classes", "passes"), [(1, True), (3, True), (4, False)])
def test_an_adversarial_row_of_few_logits_counts_as_large_as_the_others(
    classes: int, passes: bool
) -> None:
    want = np.ones((3, classes))
    want[1] = 1e-3
    got = want + np.array([[0.0], [1e-5], [0.0]])
    names = ("zeros", "checkerboard", "extremes")
    judge = partial(compare_adversarial, names, gate=gate_for("fp32"))
    _, failures = judge(want, got, baseline=want + 1e-5)
    assert bool(failures) != passes
    infinite = np.where(np.arange(3)[:, None] == 2, np.inf, want)
    assert not judge(infinite, want)[1]
    far = want + np.array([[0.0], [1e-2], [0.0]])
    assert judge(want, far, baseline=want + 1e-5)[1]
