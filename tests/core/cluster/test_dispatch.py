"""Units are settled exactly once, whatever happens to workers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from types import FrameType
from typing import Any

import pytest

from fakes.crew import FakeCrew
from resnext.cluster import dispatch as dispatcher
from resnext.cluster.crew import Answer, Ended, Event, Ready
from resnext.cluster.dispatch import dispatch
from resnext.cluster.units import Settled, Unit
from resnext.errors import (
    BadInput,
    MissingRequirement,
    ResnextError,
    SessionFailed,
    UsageError,
)

TWO = {"a/0": "a", "b/0": "b"}


def units(count: int) -> list[Unit]:
    return [Unit(str(number), number) for number in range(count)]


def run(crew: FakeCrew, work: list[Unit], **options: Any) -> dict[str, Settled]:
    settled = list(dispatch(work, crew, clock=crew.clock, **options))
    assert sorted(one.unit.id for one in settled) == sorted(unit.id for unit in work)
    return {one.unit.id: one for one in settled}


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_every_unit_has_its_receipt_once(depth: int) -> None:
    crew = FakeCrew(TWO, depth=depth)
    settled = run(crew, units(7))
    assert {id: one.receipt for id, one in settled.items()} == {str(n): n for n in range(7)}
    assert {slot for slot, _ in crew.given} == set(TWO)
    assert all(one.tries == 1 and not one.lost for one in settled.values())


def test_no_more_workers_are_started_than_units_need() -> None:
    crew = FakeCrew({f"a/{n}": "a" for n in range(9)})
    run(crew, units(2))
    assert len(crew.started) == 2


def lines_run(crew: FakeCrew, count: int) -> int:
    """Lines of the dispatcher that run while half of ``count`` units are settled."""
    ran = 0

    def line(_: FrameType, event: str, __: Any) -> Any:
        nonlocal ran
        ran += event == "line"
        return line

    def called(frame: FrameType, *_: Any) -> Any:
        return line if frame.f_code.co_filename == dispatcher.__file__ else None

    settled = dispatch(units(count), crew, clock=crew.clock)
    assert sum(1 for _ in islice(settled, count // 2)) == count // 2  # all workers are there
    before = sys.gettrace()
    sys.settrace(called)
    try:
        sum(1 for _ in islice(settled, count // 4))
    finally:
        sys.settrace(before)
    return ran


def test_the_work_of_the_driver_does_not_grow_with_its_workers() -> None:
    few, many = (
        lines_run(FakeCrew({f"a/{n}": "a" for n in range(count)}, depth=2), 2000)
        for count in (5, 500)
    )
    assert 500 < few < 500 * 100
    assert many < 2 * few


def test_what_is_given_back_comes_first_and_order_is_kept_among_places() -> None:
    places = [None, frozenset("a"), frozenset("ab"), frozenset("b")]
    work = [Unit(str(n), n, places[n % 4]) for n in range(12)]
    died: list[str] = []

    def does(slot: str, id: str, payload: Any) -> Event:
        if id == "4" and not died:
            died.append(slot)
            return Ended(slot, "signal SIGSEGV")
        return Answer(slot, id, payload)

    crew = FakeCrew({"a/0": "a"}, does, depth=3)
    settled = dispatch([it for it in work if it.places != places[3]], crew, clock=crew.clock)
    assert [it.unit.id for it in settled] == ["0", "1", "2", "4", "5", "6", "8", "9", "10"]
    assert [id for _, id in crew.given] == [
        *["0", "1", "2", "4", "5", "6"],
        *["4", "5", "6", "8", "9", "10"],
    ]


def kills(id: str, times: int) -> Callable[[str, str, Any], Event]:
    """A unit that kills its worker so many times."""
    deaths: list[str] = []

    def does(slot: str, given: str, payload: Any) -> Event:
        if given == id and len(deaths) < times:
            deaths.append(slot)
            return Ended(slot, "signal SIGSEGV")
        return Answer(slot, given, payload)

    return does


@pytest.mark.parametrize("times", [1, 2])
def test_a_lost_worker_gives_its_units_back(times: int) -> None:
    crew = FakeCrew(TWO, kills("3", times), depth=2)
    settled = run(crew, units(6))
    assert settled["3"].receipt == 3
    assert {id: one.tries for id, one in settled.items()} == {
        str(n): times + 1 if n == 3 else 1 for n in range(6)
    }
    assert len(crew.started) == 2 + times


def test_a_unit_that_kills_three_workers_is_lost_alone() -> None:
    settled = run(FakeCrew(TWO, kills("0", 99), depth=3), units(6))
    lost = {id: (one.lost, one.tries) for id, one in settled.items() if one.lost}
    assert lost == {"0": ("signal SIGSEGV", 3)}


@pytest.mark.parametrize("error", [SessionFailed("no kernel image"), BadInput("no picture")])
def test_a_worker_that_breaks_whatever_it_gets_costs_no_unit(error: ResnextError) -> None:
    """The other is slow, so that the broken one is asked again and again."""
    later: list[Answer] = []

    def does(slot: str, id: str, payload: Any) -> Event | None:
        if slot == "b/0":
            return Answer(slot, id, error=error)
        later.append(Answer(slot, id, payload))
        return None

    class Slow(FakeCrew):
        def wait(self, timeout_s: float) -> Sequence[Event]:
            return super().wait(timeout_s) or ([later.pop(0)] if later else [])

    crew = Slow({"a/0": "a", "b/0": "b"}, does)
    settled = {
        one.unit.id: one
        for one in dispatch(units(12), crew, broken_by=(SessionFailed,), clock=crew.clock)
    }
    assert len(settled) == 12
    if isinstance(error, BadInput):  # about the picture
        assert any(one.error is error for one in settled.values())
        assert crew.stopped == []
    else:
        assert [one for one in settled.values() if one.lost or one.error] == []
        assert max(one.tries for one in settled.values()) == 2
        assert crew.stopped == ["b/0"] * 3  # and then no more
        assert crew.started.count("b/0") == 3


@pytest.mark.parametrize("places", [TWO, {"a/0": "a"}])
def test_where_all_are_broken_not_every_unit_is_tried(places: dict[str, str]) -> None:
    crew = FakeCrew(places, lambda slot, id, _: Answer(slot, id, error=SessionFailed("no kernel")))
    settled = run(crew, units(99), broken_by=(SessionFailed,))
    assert all("no kernel" in one.lost for one in settled.values())
    assert len(crew.started) <= 9


def test_without_a_slot_it_waits_though_another_was_closed() -> None:
    """All machines of a cluster may be away for a while."""
    crew = FakeCrew(TWO, starts=lambda slot: Ended(slot, "refused", BadInput("other version")))
    slots = [crew.places, crew.places, {}, {}, {"c/0": "c"}]

    class Away(FakeCrew):
        def slots(self) -> Mapping[str, str]:
            return slots.pop(0) if len(slots) > 1 else slots[0]

        def start(self, slot: str) -> None:
            self._starts = Ready if slot == "c/0" else crew._starts
            super().start(slot)

    away = Away(TWO)
    assert len(run(away, units(3))) == 3
    assert away.started == ["a/0", "b/0", "c/0"]


def test_a_unit_that_was_tried_is_done_alone_so_that_the_one_that_kills_is_found() -> None:
    tried: list[str] = []

    def does(slot: str, id: str, payload: Any) -> Event | None:
        tried.append(id)
        if id == "1":  # while 0 is not done yet
            return Ended(slot, "signal SIGSEGV")
        return None if tried == ["0"] else Answer(slot, id, payload)

    crew, settled = FakeCrew({"a/0": "a"}, does, depth=2), {}
    for one in dispatch(units(4), crew, clock=crew.clock):
        settled[one.unit.id] = (one.lost, one.tries)
        if one.unit.id == "0":
            assert tried == ["0", "1", "0"]  # nothing beside it
    assert settled == {
        "0": ("", 2),
        "1": ("signal SIGSEGV", 3),
        "2": ("", 1),
        "3": ("", 1),
    }
    assert tried == ["0", "1", "0", "1", "2", "1", "1", "2", "3"]


def test_an_error_of_the_work_is_an_answer() -> None:
    error = BadInput("no good")
    settled = run(FakeCrew(TWO, lambda slot, id, _: Answer(slot, id, None, error)), units(2))
    assert all(one.error is error and one.tries == 1 for one in settled.values())


@pytest.mark.parametrize(
    ("ended", "starts"),
    [(Ended("a/0", "refused", UsageError("no model")), 1), (Ended("a/0", "signal SIGKILL"), 3)],
)
def test_workers_that_cannot_be_made_are_one_error(ended: Ended, starts: int) -> None:
    crew = FakeCrew({"a/0": "a"}, starts=lambda _: ended)
    with pytest.raises((UsageError, MissingRequirement), match=r"no model|signal SIGKILL"):
        run(crew, units(50))
    assert len(crew.started) == starts


def test_one_place_that_refuses_leaves_the_units_to_the_others() -> None:
    refused = Ended("a/0", "other version", MissingRequirement("other version"))
    crew = FakeCrew(TWO, starts=lambda slot: refused if slot == "a/0" else Ready(slot))
    assert {one.place for one in run(crew, units(4)).values()} == {"b"}
    assert crew.started.count("a/0") == 1


def test_units_stay_at_their_places() -> None:
    work = [Unit(str(n), n, frozenset({"ab"[n % 2]})) for n in range(6)]
    settled = run(FakeCrew(TWO, depth=2), work)
    assert all(one.place in (one.unit.places or ()) for one in settled.values())


def test_a_worker_without_a_sign_of_life_is_ended_and_its_unit_done_elsewhere() -> None:
    hung: list[str] = []

    def does(slot: str, id: str, payload: Any) -> Event | None:
        if slot == "a/0" and not hung:
            hung.append(slot)
            return None
        return Answer(slot, id, payload)

    crew = FakeCrew(TWO, does)
    settled = run(crew, units(3), patience_s=20, notice_s=5)
    assert crew.stopped == ["a/0"]
    assert settled["0"].tries == 2
    assert all(one.lost == "" for one in settled.values())


def test_silence_says_what_is_missing_and_then_is_an_error() -> None:
    said: list[str] = []
    crew = FakeCrew({}, lacks="1 CPU of 0")
    with pytest.raises(MissingRequirement, match=r"no worker for 200 s: 1 CPU of 0"):
        run(crew, units(2), notice_s=60, patience_s=200, say=said.append)
    assert said == [f"nothing for {n} s: 1 CPU of 0" for n in (60, 120, 180)]


def test_a_hung_unit_is_named() -> None:
    said: list[str] = []
    crew = FakeCrew({"a/0": "a"}, lambda *_: None)
    settled = run(crew, units(1), notice_s=60, patience_s=100, say=said.append)
    assert "nothing for 60 s; waiting for 0 on a" in said
    assert settled["0"].lost == "no sign of life for 100 s"
    assert settled["0"].tries == 3


def test_units_whose_place_is_gone_are_lost_once_nothing_else_is_left() -> None:
    work = [*units(2), Unit("gone", places=frozenset({"c"}))]
    settled = run(FakeCrew(TWO, lacks="c is gone"), work, patience_s=100)
    assert settled["gone"].lost == "no worker for 100 s: c is gone"
    assert settled["gone"].tries == 0
    assert settled["1"].receipt == 1


def test_ids_are_unique() -> None:
    with pytest.raises(UsageError, match="same id"):
        run(FakeCrew(TWO), [Unit("x"), Unit("x")])


def test_progress_counts_what_is_settled() -> None:
    said: list[str] = []
    run(FakeCrew(TWO), units(3), say=said.append, doing="shards")
    assert said[-1] == "3 of 3 shards"
