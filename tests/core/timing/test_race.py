"""The race, on planted times: who is dropped, when and why, and how it ends."""

from __future__ import annotations

import pytest

from resnext.timing.race import Race, Rules


def raced(rounds: list[dict[str, float]], rules: Rules = Rules()) -> Race[str]:
    race = Race(rounds[0], rules)
    for times in rounds:
        race.add({name: times[name] for name in race.in_race if name in times})
    return race


def test_what_is_a_quarter_slower_leaves_after_two_rounds() -> None:
    race = raced([{"a": 100.0, "b": 126.0, "c": 124.0}] * 2)
    assert race.in_race == ("a", "c")
    assert race.leader == "a"
    assert race.dropped["b"].reason == "26 % slower than a after 2 rounds"
    assert race.ranking() == ("a", "c", "b")
    assert race.ended is None


def test_a_single_disturbed_visit_drops_nobody_early() -> None:
    race = raced([{"a": 100.0, "b": 1000.0}, {"a": 100.0, "b": 99.0}])
    assert race.in_race == ("a", "b")


@pytest.mark.parametrize("time", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(time: float) -> None:
    race = Race(["a", "b"])
    with pytest.raises(ValueError, match="the time of 'b' is"):
        race.add({"a": 1.0, "b": time})
    assert race.rounds == 0
