"""Verdicts on a ratio and its margin."""

from __future__ import annotations

import math

import pytest

from resnext.timing.change import Change, between_processes, describe, holm, paired, unpaired

#: Spread of the rounds around their center, no two alike.
SPREAD = (-5.0, 3.3, -2.1, 4.6, 0.4, -3.7, 2.2, -1.2, 5.1, -4.4, 1.3, -0.6)


def rounds(center: float, scale: float = 0.001, count: int = 12) -> list[float]:
    return [math.log(center) + scale * each for each in (SPREAD * 3)[:count]]


@pytest.mark.parametrize(
    ("center", "verdict"),
    [(1.1, "SLOWER"), (0.9, "FASTER"), (1.0, "SAME"), (1.012, "SAME"), (1.0185, "CANNOT TELL")],
)
def test_the_verdict_is_where_the_interval_lies(center: float, verdict: str) -> None:
    for change in (
        paired(rounds(center)),
        unpaired(rounds(1.0)[::-1], rounds(center)),
        between_processes(rounds(center, count=4)),
    ):
        assert change.verdict == verdict
        assert (change.more is None) == (verdict != "CANNOT TELL")
        assert change.ratio is not None
        assert change.ratio.low < center < change.ratio.high


def test_a_margin_is_as_wide_as_requested() -> None:
    assert paired(rounds(1.1), margin=0.2).verdict == "SAME"
    assert paired(rounds(1.012), margin=0.005).verdict == "SLOWER"


def test_fewer_than_eight_rounds_have_no_verdict() -> None:
    assert paired(rounds(1.5, count=8)).verdict == "SLOWER"
    few = paired(rounds(1.5, count=7))
    assert (few.verdict, few.p_value, few.more) == ("CANNOT TELL", 1 / 64, 1)
    assert describe(few) == (
        "B takes 50.0 % more time than A (95 % interval +49.4 to +50.5 %); a verdict takes at least"
        " 8; about 1 more round would tell."
    )
    none = paired(rounds(1.5, count=5))
    assert (none.verdict, none.ratio, none.more) == ("CANNOT TELL", None, 3)
    assert paired([]).more == 8
    assert unpaired([], []).more == 8
    assert between_processes(rounds(1.5, count=2)).more == 1
    assert between_processes([0.1]).more == 2


def test_more_rounds_are_as_many_as_the_width_needs() -> None:
    """Repeating the same rounds keeps their spread: the proposed number must be about enough."""
    noisy = rounds(1.0, 0.012)
    change = paired(noisy)
    assert change.verdict == "CANNOT TELL"
    assert change.more is not None
    needed = next(
        count for count in range(13, 400) if paired((noisy * 40)[:count]).verdict == "SAME"
    )
    assert needed / 1.6 < change.count + change.more < needed * 1.6
    assert paired(rounds(1.02, 0.5)).more is None


def test_a_run_that_drifted_has_no_verdict() -> None:
    drifting = [0.004 * index + 1e-5 * each for index, each in enumerate(SPREAD)]
    for runs, name in (((drifting, rounds(1.2)), "base"), ((rounds(1.2), drifting), "new")):
        change = unpaired(*runs)
        assert (change.verdict, change.more) == ("CANNOT TELL", None)
        assert change.reason == f"the machine drifted during the {name} run"
    assert "base and the new run" in unpaired(drifting, drifting).reason


def test_holm_takes_back_what_chance_explains() -> None:
    beyond = paired(rounds(1.0262, 0.002))
    assert beyond.verdict == "SLOWER"
    assert 0.01 < beyond.p_value < 0.05
    same, clear = paired(rounds(1.0)), paired(rounds(1.2))
    alone, *rest = holm([beyond])
    assert (alone, rest) == (beyond, [])
    first, second, *others = holm([beyond, clear, *[same] * 18])
    assert first.verdict == "CANNOT TELL"
    assert first.p_value > 0.05
    assert "20 rows" in first.reason
    assert first.more is not None
    assert second.verdict == "SLOWER"
    assert {change.verdict for change in others} == {"SAME"}
    without = paired(rounds(1.5, count=4))
    assert holm([without, beyond]) == (without, beyond)  # which was no test


def test_holm_is_the_published_procedure() -> None:
    p_values = (0.01, 0.04, 0.03, 0.005)
    ratio = paired(rounds(1.1)).ratio
    changes = [Change("SLOWER", ratio, p_value, 12, 0.02) for p_value in p_values]
    corrected = holm(changes)
    assert [each.p_value for each in corrected] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [each.verdict == "SLOWER" for each in corrected] == [True, False, False, True]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (paired(rounds(1.1)), "B takes 10.0 % more time than A (95 % interval"),
        (paired(rounds(1.1)), "): beyond the margin of 2 %."),
        (paired(rounds(0.9)), "B takes 10.0 % less time than A"),
        (paired(rounds(1.0)), "B takes as long as A (95 % interval -0.2 to +0.2 %): within"),
        (paired(rounds(1.0, 0.012)), "; the interval crosses the edge of the margin of 2 %; about"),
        (paired(rounds(1.0, count=3)), "3 rounds are too few for an interval; about 5 more"),
    ],
)
def test_a_change_in_a_sentence(change: Change, sentence: str) -> None:
    assert sentence in describe(change)
