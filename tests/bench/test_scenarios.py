"""What a row goes through after the timed rounds: in order, apart from them, each on its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fakes.calm import calm
from resnext.artifact.specs import Strict
from resnext.errors import MissingRequirement
from resnext_bench import benchmark
from resnext_bench.deadline import Deadline
from resnext_bench.measure import Samples
from resnext_bench.scenarios.scenario import Passes, Stage, go_through


class Seen(Strict):
    """A record."""

    rounds: int


@dataclass
class Plain:
    """A scenario that does as it is told."""

    field: str
    act: Callable[[Stage], Strict | None]

    def __call__(self, stage: Stage) -> Strict | None:
        return self.act(stage)


def broken(_: Stage) -> Strict:
    raise MissingRequirement("no counter", hint="load the driver")


def stage(deadline: Deadline | None = None) -> Stage:
    nothing: Any = None
    subject: Any = SimpleNamespace(session=SimpleNamespace(served=""))
    return Stage(nothing, subject, Samples(), nothing, None, 0, deadline or Deadline())


def test_an_error_ends_only_its_own_scenario_and_nothing_known_is_no_record() -> None:
    scenarios = [
        Plain("soak", broken),
        Plain("load", lambda _: Seen(rounds=3)),
        Plain("energy", lambda _: None),
        Plain("odd", lambda _: Seen(rounds=int("three"))),
    ]
    passes = go_through(scenarios, stage())
    assert passes.records == {"load": Seen(rounds=3)}
    assert {name: str(error) for name, error in passes.errors.items()} == {
        "soak": "no counter; load the driver",
        "odd": "ValueError: invalid literal for int() with base 10: 'three'",
    }


def test_none_begins_after_the_deadline() -> None:
    passes = go_through([Plain("load", lambda _: Seen(rounds=1))], stage(Deadline(0.0)))
    assert not passes.records
    assert "out of time" in str(passes.errors["load"])


def test_a_row_goes_through_after_its_rounds_and_a_failure_makes_it_invalid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calm(monkeypatch)
    seen: list[bool] = []

    def run_then_break(stage: Stage) -> Strict:
        logits = stage.subject.session.run(stage.subject.inputs)
        seen.append(all(np.isfinite(each).all() for each in logits.values()))
        seen.append(len(stage.samples.host_ns) >= 2)
        return broken(stage)

    failing = Plain("soak", run_then_break)
    (row,) = benchmark(
        "torch", weights="digits", scenarios=[failing], duration=0.01, rounds=2, warmup=0.0
    ).rows
    assert seen == [True, True]
    assert row.timings
    assert row.status == "invalid"
    assert row.reasons == ("soak: no counter; load the driver",)


def test_without_scenarios_nothing_is_recorded() -> None:
    assert go_through([], stage()) == Passes()
