"""The front of points that no other one beats."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.tuned import AGREEMENT, SLO, timed
from resnext_bench.pareto import pareto_front
from resnext_bench.tune.front import with_front

#: Few values, so that points tie and repeat.
COSTS = st.sampled_from([None, math.nan, 0.0, 1.0, 2.0, 3.0, math.inf])
POINTS = st.integers(1, 4).flatmap(
    lambda size: st.lists(st.tuples(*[COSTS] * size), min_size=0, max_size=8)
)


def no_worse(one: float | None, other: float | None) -> bool:
    """Whether a cost is at most another: what is unknown is more than everything."""

    def known(cost: float | None) -> bool:
        return cost is not None and not math.isnan(cost)

    if one is None or other is None or not known(one) or not known(other):
        return not known(other) or other == math.inf
    return one <= other


def dominates(one: tuple[float | None, ...], other: tuple[float | None, ...]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(no_worse(a, b) for a, b in pairs) and not all(no_worse(b, a) for a, b in pairs)


@settings(max_examples=60, deadline=None)
@given(POINTS)
def test_no_point_of_the_front_is_dominated_and_every_other_one_is_by_a_point_of_it(
    points: list[tuple[float | None, ...]],
) -> None:
    front = pareto_front(points)
    kept = [point for point, is_on in zip(points, front, strict=True) if is_on]
    for point, is_on in zip(points, front, strict=True):
        assert is_on == (not any(dominates(other, point) for other in kept))
    assert bool(kept) == bool(points)


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([], []),
        ([(1.0,)], [True]),
        ([(1.0, 2.0), (1.0, 2.0)], [True, True]),
        ([(1.0, 2.0), (1.0, 3.0)], [True, False]),
        ([(1.0, 2.0), (2.0, 1.0), (2.0, 2.0)], [True, True, False]),
        ([(None, 2.0), (1.0, 2.0)], [False, True]),
        ([(None, 1.0), (1.0, 2.0)], [True, True]),
        ([(math.nan,), (None,)], [True, True]),
    ],
)
def test_ties_duplicates_and_unknown_costs(
    points: list[tuple[float | None, ...]], front: list[bool]
) -> None:
    assert pareto_front(points) == front


FAST = timed("ort-cpu int8, batch 1", "picked", 5.0, 12, size_bytes=24)
SMALL = timed("openvino int8, batch 1", "slower", 6.0, 12, size_bytes=12)
WORSE = timed("ort-cpu fp32, batch 1", "slower", 7.0, 12, size_bytes=99)
RIGHT = timed("ort-cpu fp16, batch 1", "slower", 8.0, 12, size_bytes=99, top1=0.95)


def test_the_front_of_a_search_weighs_time_size_and_accuracy() -> None:
    found = with_front([WORSE, FAST, SMALL, RIGHT])
    assert [one.name for one in found] == [WORSE.name, FAST.name, SMALL.name, RIGHT.name]
    assert [one.on_front for one in found] == [False, True, True, True]
    assert [one.on_front for one in with_front([WORSE])] == [True]


def test_a_candidate_that_missed_a_gate_or_is_the_baseline_beats_none_and_is_on_no_front() -> None:
    gates = (AGREEMENT.model_copy(update={"actual": 0.5}),)
    missed = FAST.model_copy(update={"outcome": "gate", "gates": gates})
    in_doubt = FAST.model_copy(update={"gates": (SLO,)})
    never_timed = FAST.model_copy(update={"p50_ns": None, "images_per_s": None})
    baseline = FAST.model_copy(update={"outcome": "baseline"})
    for other in (missed, in_doubt, never_timed, baseline):
        assert [one.on_front for one in with_front([other, WORSE])] == [False, True]


def test_p99_counts_if_all_have_it() -> None:
    steady = WORSE.model_copy(update={"p99_ns": 1, "size_bytes": 99})
    assert [one.on_front for one in with_front([FAST, steady])] == [True, True]
    unknown = FAST.model_copy(update={"p99_ns": None})
    assert [one.on_front for one in with_front([unknown, steady])] == [True, False]
