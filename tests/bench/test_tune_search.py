"""A search over planted candidates, on a simulated machine: who must not win does not."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from fakes.simulated import QUIET, SPINNING
from fakes.workshop import Cut, FakeConfirmer, Plan, Simulation
from resnext.errors import BadInput, GateFailed, SessionFailed, SilentFallback
from resnext.timing.race import Rules
from resnext.weights.spec import Weights, load_weights
from resnext_bench.deadline import Deadline
from resnext_bench.tune import api
from resnext_bench.tune.record import CandidateRecord
from resnext_bench.tune.result import Tuned
from resnext_bench.tune.space import Point, Refusal
from resnext_bench.tune.verdict import verdict
from resnext_bench.tune.workshop import Fall

ORT, OPENVINO, MERGED = Point("ort-cpu"), Point("openvino"), Point("openvino", merge="auto")
INT8 = Point("openvino", "int8", method="minmax")
FIELD = (ORT, OPENVINO, MERGED, INT8)
RULES = Rules(rounds=8)


@pytest.fixture(scope="module")
def digits() -> Weights:
    return load_weights("digits")


def simulation(digits: Weights, plans: dict[Point, Plan], **fields: Any) -> Simulation:
    """A search over the points of ``plans`` in their order."""
    named = {point.name: plan for point, plan in plans.items()}
    points = fields.pop("points", tuple(point for point in plans if not point.live))
    return Simulation(digits, points, named, **{"rules": RULES} | fields)


def found(tuned: Tuned, point: Point) -> CandidateRecord:
    return next(one for one in tuned.candidates if one.name == point.name)


def timed_choice(digits: Weights) -> Any:
    """An artifact for which the widths of groups were timed."""
    merged = SimpleNamespace(groups={"layer1.0.conv2": 2, "layer3.0.conv2": 4})
    manifest = SimpleNamespace(
        file_sha256="a" * 64, build_s=1.0, merged=merged, network=digits.config
    )
    return SimpleNamespace(manifest=manifest)


FALLEN: dict[str, tuple[Plan, dict[str, Any], str, str, bool]] = {
    # what is planted in the fastest, the request, its outcome and reason, whether it is timed
    "misses accuracy": (
        Plan(1.0, agreement=0.985),
        {"gate": "agreement>=0.99"},
        "gate",
        "agreement",
        False,
    ),
    "misses the usual gates": (Plan(1.0, agreement=0.97), {}, "gate", "agreement", False),
    "is too large": (Plan(1.0, size=2_000_000), {"gate": "size<=1.5MB"}, "gate", "size", False),
    "has an unknown memory": (Plan(1.0), {"gate": "memory<=10GB"}, "gate", "memory", False),
    "delivers fp32": (
        Plan(1.0, fall=Fall("refused", "int8 asked for, but only 0.0 % got int8", always=True)),
        {},
        "refused",
        "only 0.0 %",
        False,
    ),
    "falls back": (
        Plan(1.0, error=SilentFallback("planted: computes in float32")),
        {},
        "refused",
        "computes in float32",
        False,
    ),
    "computes something else": (Plan(1.0, right=False), {}, "gate", "wrong output", False),
    "computes something else while it is timed": (
        Plan(1.0, late=True),
        {},
        "gate",
        "wrong output of a timed run",
        True,
    ),
    "cannot be built": (
        Plan(1.0, error=SessionFailed("planted: no compiler")),
        {},
        "failed",
        "no compiler",
        False,
    ),
    "dies in round 3": (Plan(1.0, dies=3), {}, "failed", "the session died", True),
}


@pytest.mark.parametrize("case", FALLEN)
def test_who_is_fastest_and_fails_a_test_does_not_win(
    digits: Weights, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    plan, asked, outcome, reason, timed = FALLEN[case]
    search = simulation(digits, {OPENVINO: plan, ORT: Plan(2.0), MERGED: Plan(3.0)}, asked=asked)
    if case == "has an unknown memory":  # of everybody
        tuned = search.run(monkeypatch)
        assert tuned.pick is None
    else:
        tuned = search.run(monkeypatch)
        assert tuned.pick == ORT.name
    fallen = found(tuned, OPENVINO)
    assert (fallen.outcome, bool(fallen.rounds_ns)) == (outcome, timed)
    assert reason in fallen.reason
    clean = simulation(digits, {OPENVINO: Plan(1.0), ORT: Plan(2.0), MERGED: Plan(3.0)})
    assert clean.run(monkeypatch).pick == OPENVINO.name


def test_the_fastest_wins_and_the_others_say_why_they_fell(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = simulation(
        digits, {ORT: Plan(2.0), OPENVINO: Plan(1.0), MERGED: Plan(1.06), INT8: Plan(1.0)}
    )
    tuned = search.run(monkeypatch)
    assert tuned.pick in (OPENVINO.name, INT8.name)
    assert [one.outcome for one in tuned.candidates[:2]] == ["picked", "same"]
    assert found(tuned, ORT).outcome == found(tuned, MERGED).outcome == "slower"
    assert "after 2 rounds" in found(tuned, ORT).reason
    assert len(found(tuned, ORT).rounds_ns) == 2
    baseline = found(tuned, Point("torch"))
    assert baseline.outcome == "baseline"
    assert baseline.ratio is not None
    assert baseline.ratio[0] == pytest.approx(40.0, rel=0.05)
    assert search.confirmer.asked == [
        (tuned.pick, tuned.runner_up),
        (tuned.pick, Point("torch").name),
    ]
    assert tuned.visits < tuned.grid_visits
    assert tuned.candidates[0].on_front


def test_a_single_candidate_is_timed_beside_the_baseline(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = simulation(digits, {ORT: Plan(2.0)})
    tuned = search.run(monkeypatch)
    baseline = found(tuned, Point("torch"))
    assert (tuned.pick, tuned.ended) == (ORT.name, "one-left")
    assert baseline.ratio is not None
    assert baseline.ratio[0] == pytest.approx(20.0, rel=0.05)
    assert search.confirmer.asked == [(ORT.name, baseline.name)]


def test_throughput_is_compared_per_image_and_latency_per_run(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    eight = replace(ORT, batch=8, streams=2)
    plans = {ORT: Plan(1.0), eight: Plan(12.0)}
    assert simulation(digits, plans).run(monkeypatch).pick == ORT.name
    tuned = simulation(digits, plans, asked={"goal": "throughput"}).run(monkeypatch)
    assert tuned.pick == eight.name
    assert tuned.candidates[0].images_per_s == pytest.approx(16 / 0.012, rel=0.05)


def test_who_is_dropped_is_closed_at_once(digits: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    search = simulation(digits, {ORT: Plan(2.0), OPENVINO: Plan(1.0), MERGED: Plan(1.02)})
    still_open: list[set[str]] = []

    def look() -> None:
        sessions = search.workshop.sessions
        still_open.append({name for name, each in sessions.items() if not each.closed})

    search.at_save = look
    search.run(monkeypatch)
    rest = {Point("torch").name, OPENVINO.name, MERGED.name}
    assert rest | {ORT.name} in still_open
    assert still_open[still_open.index(rest | {ORT.name}) + 2] == rest
    assert all(each.closed for each in search.workshop.sessions.values())


# ---- limits on time


def test_a_median_above_the_limit_leaves_early_and_whom_it_had_dropped_is_back(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = replace(ORT, batch=64)
    search = simulation(
        digits,
        {large: Plan(64.0), ORT: Plan(2.0), OPENVINO: Plan(2.5)},
        asked={"goal": "throughput", "slo": "p99<=20ms"},
    )
    tuned = search.run(monkeypatch)
    assert tuned.pick == ORT.name
    assert found(tuned, large).outcome == "gate"
    assert len(found(tuned, large).rounds_ns) == 2
    (gate,) = [each for each in found(tuned, large).gates if each.name == "p99"]
    assert gate.actual == pytest.approx(64, rel=0.05)
    assert not gate.passed
    (proven,) = [each for each in tuned.candidates[0].gates if each.name == "p99"]
    assert proven.passed
    assert tuned.candidates[0].p99_ns is not None
    assert sum(map(len, tuned.candidates[0].rounds_ns.values())) >= 662


def test_a_tail_above_the_limit_gives_the_next_in_ranking(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = {ORT: Plan(1.0, tail=20), OPENVINO: Plan(3.0)}
    assert simulation(digits, plans).run(monkeypatch).pick == ORT.name
    tuned = simulation(digits, plans, asked={"slo": "p99<=5ms"}).run(monkeypatch)
    assert tuned.pick == OPENVINO.name
    assert found(tuned, ORT).outcome == "gate"
    assert "p99" in found(tuned, ORT).reason


def test_a_percentile_that_is_not_known_does_not_pass(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = {ORT: Plan(1.0), OPENVINO: Plan(1.1)}
    search = simulation(digits, plans, asked={"slo": "p99<=20ms"})
    tuned = search.run(monkeypatch, deadline=Cut(6))
    assert tuned.ended == "interrupted"
    assert tuned.pick is None
    assert found(tuned, ORT).outcome == "not-measured"
    assert "runs before the interruption" in found(tuned, ORT).reason


def test_when_nobody_passes_there_is_no_pick(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = {ORT: Plan(1.0, agreement=0.95), OPENVINO: Plan(1.1, agreement=0.97)}
    tuned = simulation(digits, plans, asked={"gate": "agreement>=0.99"}).run(monkeypatch)
    assert (tuned.pick, tuned.ended, tuned.complete) == (None, "one-left", True)
    assert "97" in tuned.table().splitlines()[0]


# ---- preparing


def test_what_is_refused_is_never_built(digits: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    search = simulation(
        digits,
        {ORT: Plan(2.0), OPENVINO: Plan(1.0)},
        refusal=lambda point: Refusal("planted", "buy another") if point == OPENVINO else None,
    )
    tuned = search.run(monkeypatch)
    assert tuned.pick == ORT.name
    assert OPENVINO.name not in search.workshop.opened
    assert (found(tuned, OPENVINO).outcome, found(tuned, OPENVINO).hint) == (
        "refused",
        "buy another",
    )


def test_an_artifact_that_falls_is_not_tried_at_other_settings(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    eight = replace(OPENVINO, batch=8)
    search = simulation(
        digits, {OPENVINO: Plan(1.0, agreement=0.9), eight: Plan(1.0), ORT: Plan(2.0)}
    )
    tuned = search.run(monkeypatch)
    assert eight.name not in search.workshop.opened
    assert found(tuned, eight).outcome == "gate"
    assert found(tuned, eight).gates == found(tuned, OPENVINO).gates


def test_another_calibration_method_is_tried_only_where_the_first_does_not_do(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    percentile = replace(INT8, method="percentile")
    bad, good = Plan(1.0, agreement=0.9), Plan(1.0)
    for plans, tried, pick in (
        ({INT8: good}, [], INT8),
        ({INT8: bad, percentile: good}, [percentile], percentile),
        ({INT8: bad, percentile: bad}, [percentile], ORT),
        ({INT8: Plan(1.0, right=False), percentile: good}, [percentile], percentile),
        ({INT8: Plan(1.0, error=SessionFailed("planted"))}, [], ORT),
        ({INT8: Plan(1.0, size=10**9)}, [], ORT),
        ({ORT: bad, INT8: Plan(3.0)}, [], INT8),
    ):
        search = simulation(
            digits,
            {ORT: Plan(2.0)} | plans,
            points=(ORT, INT8),
            asked={"gate": "agreement>=0.95,size<=10MB"},
        )
        tuned = search.run(monkeypatch)
        assert tuned.pick == pick.name
        methods = [each for each in search.workshop.opened if " percentile" in each]
        assert list(dict.fromkeys(methods)) == [each.name for each in tried]


class Spent(Deadline):
    """Half of the time is over after so many questions."""

    def __init__(self, questions: int) -> None:
        super().__init__()
        self.questions = questions

    def opening_over(self) -> bool:
        self.questions -= 1
        return self.questions < 0


def test_after_half_of_the_time_nothing_more_is_built(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = simulation(digits, {ORT: Plan(2.0), OPENVINO: Plan(1.0), MERGED: Plan(1.0)})
    tuned = search.run(monkeypatch, deadline=Spent(2))
    assert tuned.pick == ORT.name
    assert set(search.workshop.opened) == {Point("torch").name, ORT.name}
    assert [found(tuned, each).outcome for each in (OPENVINO, MERGED)] == ["not-measured"] * 2
    assert "out of time" in found(tuned, MERGED).reason


class Slow(Deadline):
    """A clock that the workshop moves, and 30 seconds for building."""

    now = 0.0

    def spent_s(self) -> float:
        return self.now

    def opening_left_s(self) -> float:
        return 30.0 - self.now


def test_a_build_that_will_not_end_in_time_is_not_begun(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    two, other = replace(MERGED, batch=2), replace(MERGED, backend="ort-cpu")
    eight = replace(ORT, batch=8)
    plans = {ORT: Plan(2.0), MERGED: Plan(1.0), two: Plan(1.0), other: Plan(1.0), eight: Plan(9.0)}
    search, deadline = simulation(digits, plans), Slow()

    def took(line: str) -> None:
        deadline.now += 20.0 if "merged" in line else 1.0

    search.at_say = took
    tuned = search.run(monkeypatch, deadline=deadline)
    assert MERGED.name in search.workshop.opened
    assert {two.name, other.name}.isdisjoint(search.workshop.opened)
    assert eight.name in search.workshop.opened  # it takes no build
    assert "builds like it took 20 s here" in found(tuned, other).reason


PT2 = Point("pt2")


@pytest.mark.parametrize("point", [MERGED, PT2], ids=lambda point: point.name)
@pytest.mark.parametrize(("before_s", "begun"), [(5.0, True), (15.0, False)])
def test_a_long_build_of_which_nothing_is_known_yet_is_held_against_the_time_left(
    digits: Weights, monkeypatch: pytest.MonkeyPatch, point: Point, before_s: float, begun: bool
) -> None:
    search, deadline = simulation(digits, {ORT: Plan(2.0), point: Plan(1.0)}), Slow()
    monkeypatch.setattr("resnext_bench.tune.preparing._VISIT_S", 0.09)  # 9 widths: 20 s

    def took(line: str) -> None:
        deadline.now += before_s if line == f"preparing {ORT.name}" else 0.1

    search.at_say = took
    tuned = search.run(monkeypatch, deadline=deadline)
    assert (point.name in search.workshop.opened) == begun
    if not begun:
        assert "that takes about 20 s" in found(tuned, point).reason
        # what a search has built before is in the cache
        known = found(tuned, point).model_copy(update={"artifact_sha256": "a" * 64})
        part = tuned.model_copy(update={"candidates": (*tuned.candidates[:-1], known)})
        assert tuned.candidates[-1].name == point.name
        deadline.now = 12.0
        search.run(monkeypatch, deadline=deadline, earlier=part)
        assert point.name in search.workshop.opened


class Late(Deadline):
    """100 seconds by a clock that the search moves."""

    now = 0.0

    def __init__(self) -> None:
        super().__init__(100)

    def spent_s(self) -> float:
        return self.now


@pytest.mark.parametrize("prepared_s", [30.0, 85.0, 99.0, 130.0])
def test_who_is_ready_is_raced_in_the_time_that_is_left(
    digits: Weights, monkeypatch: pytest.MonkeyPatch, prepared_s: float
) -> None:
    search, deadline = simulation(digits, {ORT: Plan(1.0), INT8: Plan(1.1)}), Late()

    def took(line: str) -> None:
        if line == f"preparing {INT8.name}":
            deadline.now = prepared_s
        elif line.startswith("round"):
            deadline.now += 0.5

    search.at_say = took
    search.asked["budget"] = 100
    tuned = search.run(monkeypatch, deadline=deadline)
    if prepared_s < 100:
        assert tuned.pick == ORT.name
        api._refuse_too_short(search.search, search.request)
        return
    assert (tuned.pick, tuned.ended) == (None, "time")
    with pytest.raises(GateFailed) as refused:
        api._refuse_too_short(search.search, search.request)
    assert refused.value.message == (
        "the budget of 100 s was over before a candidate was timed: 2 of them were ready, and"
        f" preparing {INT8.name} took 130.0 s"
    )


@pytest.mark.parametrize(("slow", "begun"), [(ORT, False), (MERGED, True)])
def test_how_long_a_build_took_says_nothing_of_cheaper_ones(
    digits: Weights, monkeypatch: pytest.MonkeyPatch, slow: Point, begun: bool
) -> None:
    assert ORT.build_cost() < INT8.build_cost() < MERGED.build_cost()
    search = simulation(digits, {slow: Plan(1.0), INT8: Plan(1.0)})
    deadline = Slow()

    def took(line: str) -> None:
        deadline.now += 20.0 if line == f"preparing {slow.name}" else 1.0

    search.at_say = took
    search.run(monkeypatch, deadline=deadline)
    assert (INT8.name in search.workshop.opened) == begun


def test_widths_that_a_timed_choice_found_are_in_the_command_of_its_candidate(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = simulation(digits, {ORT: Plan(2.0), MERGED: Plan(1.0)})
    search.artifacts[MERGED.name] = timed_choice(digits)
    tuned = search.run(monkeypatch)
    words = found(tuned, MERGED).export_command
    assert words[words.index("--merge-groups") + 1] == "layer1=16,layer3=32"


def test_an_artifact_that_is_another_than_the_one_that_was_timed_is_out(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = {ORT: Plan(2.0), OPENVINO: Plan(2.02)}
    part = simulation(digits, plans).run(monkeypatch, deadline=Cut(6))
    candidates = tuple(
        one.model_copy(update={"artifact_sha256": "a" * 64}) if one.name == ORT.name else one
        for one in part.candidates
    )
    part = part.model_copy(update={"candidates": candidates})
    second = simulation(digits, plans)
    manifest = SimpleNamespace(file_sha256="b" * 64, build_s=1.0)
    second.artifacts[ORT.name] = SimpleNamespace(manifest=manifest)
    tuned = second.run(monkeypatch, earlier=part)
    assert tuned.pick == OPENVINO.name
    assert found(tuned, ORT).outcome == "failed"
    assert "another than the one that was measured" in found(tuned, ORT).reason


# ---- fresh processes


def test_a_lucky_leader_gives_way_to_the_runner_up(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = {ORT: Plan(1.0), OPENVINO: Plan(1.02), MERGED: Plan(3.0)}
    ratios = {(ORT.name, OPENVINO.name): 0.9}
    search = simulation(digits, plans, confirmer=FakeConfirmer(ratios))
    tuned = search.run(monkeypatch)
    assert (tuned.pick, tuned.runner_up) == (OPENVINO.name, ORT.name)
    assert [one.outcome for one in tuned.candidates[:2]] == ["picked", "slower"]
    assert "it led the race" in found(tuned, ORT).reason
    assert [one.other for one in tuned.confirmed] == [ORT.name, Point("torch").name]
    # one that is faster by less than the margin does not take its place
    search = simulation(digits, plans, confirmer=FakeConfirmer({(ORT.name, OPENVINO.name): 0.995}))
    assert search.run(monkeypatch).pick == ORT.name


def test_a_runner_up_whose_tail_misses_the_limit_does_not_take_the_place(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = {ORT: Plan(1.0), OPENVINO: Plan(1.02, tail=20)}
    confirmer = FakeConfirmer({(ORT.name, OPENVINO.name): 0.9})
    search = simulation(digits, plans, confirmer=confirmer, asked={"slo": "p99<=5ms"})
    tuned = search.run(monkeypatch)
    assert (tuned.pick, tuned.runner_up) == (ORT.name, None)
    assert found(tuned, OPENVINO).outcome == "gate"
    assert [one.other for one in tuned.confirmed] == [Point("torch").name]


def test_a_leader_that_computes_something_else_in_a_fresh_process_is_out(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = {ORT: Plan(1.0), OPENVINO: Plan(1.02), MERGED: Plan(1.5)}
    search = simulation(digits, plans, confirmer=FakeConfirmer(wrong=ORT.name))
    tuned = search.run(monkeypatch)
    assert (tuned.pick, tuned.runner_up) == (OPENVINO.name, MERGED.name)
    assert found(tuned, ORT).outcome == "gate"
    assert "wrong output in a fresh process" in found(tuned, ORT).reason
    # one that took the leader's place is held to the same
    confirmer = FakeConfirmer({(ORT.name, OPENVINO.name): 0.9}, wrong=OPENVINO.name)
    tuned = simulation(digits, plans, confirmer=confirmer).run(monkeypatch)
    assert tuned.pick == ORT.name
    assert found(tuned, OPENVINO).outcome == "gate"


# ---- disturbed visits


def test_a_disturbed_visit_is_repeated_and_a_machine_that_is_never_quiet_ends_too(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = {ORT: Plan(1.0), OPENVINO: Plan(1.1)}
    calm = simulation(digits, plans)
    once = simulation(digits, plans, load=lambda visit: SPINNING if visit == 3 else QUIET)
    never = simulation(digits, plans, load=lambda _: SPINNING)
    tuned = [each.run(monkeypatch) for each in (calm, once, never)]
    assert [one.pick for one in tuned] == [ORT.name] * 3
    counted = [
        sum(len(one.rounds_ns) for one in each.candidates if one.outcome != "baseline")
        for each in tuned
    ]
    assert [one.visits for one in tuned[:2]] == [counted[0], counted[1] + 1]
    assert tuned[2].visits <= 3 * tuned[0].visits
    assert [one.disturbed for one in tuned] == [0, 1, tuned[2].visits]
    words = [str(verdict(one)) for one in tuned]
    assert [text.split(":")[0] for text in words] == ["PICKED", "PICKED", "IN DOUBT"]
    assert f"other work disturbed {tuned[2].visits} of {tuned[2].visits} visits" in words[2]


# ---- cut short, and gone on with


def test_who_was_left_when_it_was_cut_says_so(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = simulation(digits, {ORT: Plan(1.0), OPENVINO: Plan(1.01)})
    left = found(search.run(monkeypatch, deadline=Cut(5)), OPENVINO)
    assert (left.outcome, left.reason) == ("not-measured", "interrupted after 2 rounds")


def test_a_search_that_is_cut_anywhere_goes_on_to_the_same_pick(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    percentile = replace(INT8, method="percentile")
    large = replace(ORT, batch=64)
    plans = {
        ORT: Plan(2.0),
        OPENVINO: Plan(1.5),
        MERGED: Plan(0.9, dies=2),
        INT8: Plan(1.0, agreement=0.9),
        percentile: Plan(1.04),
        large: Plan(40.0),
    }
    points = (ORT, OPENVINO, MERGED, INT8, large)
    asked = {"gate": "agreement>=0.95", "slo": "p99<=20ms"}

    def search() -> Simulation:
        artifacts = {MERGED.name: timed_choice(digits)}
        return simulation(digits, plans, points=points, asked=asked, artifacts=artifacts)

    whole = search()
    expected = whole.run(monkeypatch)
    assert expected.pick == percentile.name
    settled = ("gate", "failed", "refused")
    for steps in range(1, whole.saved, 2):
        first, second = search(), search()
        part = first.run(monkeypatch, deadline=Cut(steps))
        assert (part.complete, part.ended) == (False, "interrupted")
        assert not [one.reason for one in part.candidates if "time was up" in one.reason], steps
        tuned = second.run(monkeypatch, earlier=part)
        assert tuned.pick == expected.pick, steps
        assert tuned.complete
        for one in part.candidates:
            if one.outcome in settled and not one.rounds_ns:
                assert one.name not in second.workshop.opened
            after = next(each for each in tuned.candidates if each.name == one.name)
            for index, times in one.rounds_ns.items():
                assert after.rounds_ns[index] == times


def test_a_timed_choice_of_other_images_is_not_gone_on_with(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged = replace(INT8, merge="auto")

    def search(images: int) -> Simulation:
        asked = {"calibration": "random", "calibration_images": images}
        artifacts = {merged.name: timed_choice(digits)}
        return simulation(digits, {merged: Plan(1.0)}, asked=asked, artifacts=artifacts)

    part = search(16).run(monkeypatch, deadline=Cut(3))
    command = part.candidates[0].export_command
    assert "layer1=16,layer3=32" in command
    assert search(16).run(monkeypatch, earlier=part).pick == merged.name
    with pytest.raises(BadInput, match="it has no candidate"):
        search(17).run(monkeypatch, earlier=part)
    for planted in ("layer1=", ""):
        words = tuple(planted if word.startswith("layer1") else word for word in command)
        other = part.candidates[0].model_copy(update={"export_command": words})
        wrong = part.model_copy(update={"candidates": (other, *part.candidates[1:])})
        with pytest.raises(BadInput, match="it has no candidate"):
            search(16).run(monkeypatch, earlier=wrong)


def test_progress_names_the_leader(digits: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    search = simulation(digits, {ORT: Plan(2.0), OPENVINO: Plan(1.0), MERGED: Plan(1.04)})
    search.run(monkeypatch)
    assert f"round 3: leader {OPENVINO.name}, 2 of 3 left" in search.said
