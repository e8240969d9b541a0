"""The simulation of large jobs: closed forms, bookkeeping, and the table of the docs."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

import scale_simulation
from scale_simulation import (
    CREW,
    DRIVER,
    IMAGENET,
    Case,
    Crew,
    Driver,
    Job,
    Outcome,
    cases,
    main,
    planned,
    simulate,
)

ROOT = Path(__file__).parents[2]
ROUGH = Job(shards=400, shard_s=20, spread=0.5, store_s=0.3)
LOSSY = Crew(workers=20, start_s=5, life_s=60, fill_s=0.2, slow=0.1)


def test_one_worker_takes_the_sum() -> None:
    job = Job(shards=30, shard_s=2)
    assert simulate(job, Crew(1)).makespan_s == pytest.approx(60)
    each = simulate(job, Crew(1), Driver(dispatch_s=0.1, handover_s=0.5, in_flight=1))
    assert each.makespan_s == pytest.approx(30 * (2 + 0.1 + 0.5) + 0.1)  # the last receipt
    ahead = simulate(job, Crew(1), Driver(dispatch_s=0.1, handover_s=0.5))
    assert ahead.makespan_s == pytest.approx(0.1 + 0.5 + 60 + 0.1)  # hidden behind the first
    filling = simulate(job, Crew(1, fill_s=0.5), Driver(in_flight=1))
    assert filling.makespan_s == pytest.approx(30 * (2 + 0.5))  # hidden behind nothing
    assert filling.busy == pytest.approx(2 / 2.5)
    hidden = simulate(job, Crew(1, fill_s=0.5))
    assert hidden.makespan_s == pytest.approx(0.5 + 60)  # but for the first


@pytest.mark.parametrize(("shards", "workers"), [(12, 4), (13, 4), (3, 4), (1, 1), (100, 7)])
@pytest.mark.parametrize("in_flight", [1, 2])
def test_equal_shards_take_whole_rounds(shards: int, workers: int, in_flight: int) -> None:
    outcome = simulate(Job(shards, 5), Crew(workers), Driver(in_flight=in_flight))
    assert outcome.makespan_s == pytest.approx(5 * math.ceil(shards / workers))
    assert outcome.efficiency == pytest.approx(outcome.busy)
    assert (outcome.done, outcome.lost, outcome.losses) == (shards, 0, 0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("in_flight", [1, 2, 5])
@pytest.mark.parametrize("life_s", [5, 60, math.inf])
def test_every_shard_is_settled_exactly_once(life_s: float, in_flight: int, seed: int) -> None:
    driver = Driver(dispatch_s=0.02, handover_s=1, in_flight=in_flight)
    outcome = simulate(ROUGH, replace(LOSSY, life_s=life_s), driver, seed)
    assert outcome.done + outcome.lost == ROUGH.shards
    assert 0 < outcome.busy <= 1
    assert (outcome.lost > 0) == (life_s < math.inf)


def test_the_same_seed_gives_the_same_outcome() -> None:
    assert simulate(ROUGH, LOSSY, seed=3) == simulate(ROUGH, LOSSY, seed=3)
    assert simulate(ROUGH, LOSSY, seed=3) != simulate(ROUGH, LOSSY, seed=4)


def tries(shards: int, p: float, tries: int) -> Outcome:
    """Shards of equal length that are lost with probability ``p``, one at a worker."""
    job, life_s = Job(shards, shard_s=1), -1 / math.log1p(-p)
    return simulate(job, Crew(50, life_s=life_s), Driver(in_flight=1, tries=tries))


@pytest.mark.parametrize("p", [0.1, 0.3, 0.6])
def test_attempts_and_lost_shards_are_as_computed(p: float) -> None:
    n = 2000
    three = tries(n, p, 3)
    spread = math.sqrt(n * p**3 * (1 - p**3))
    assert abs(three.lost - n * p**3) <= 4 * spread
    patient = tries(n, p, 1000)
    assert patient.lost == 0
    # each loss of a shard is another attempt; only workers without one die for nothing
    attempts = (n + patient.losses) / n
    assert attempts == pytest.approx(1 / (1 - p), rel=4 * math.sqrt(p / n) / (1 - p) + 0.02)
    # what dies with its worker: (exp(x) - 1 - x) / x of the work, x = shard over life
    x = -math.log1p(-p)
    wasted = (math.expm1(x) - x) / x
    assert patient.repeated == pytest.approx(wasted / (1 + wasted), rel=5 / math.sqrt(n * p))


def test_losses_cost_time_and_shards() -> None:
    lives = (math.inf, 150, 80, 40)
    even = replace(LOSSY, slow=0)  # else a loss may replace a slow worker
    found = [
        [simulate(ROUGH, replace(even, life_s=life), Driver(tries=99), seed) for seed in range(4)]
        for life in lives
    ]
    for field in ("makespan_s", "losses", "repeated"):
        means = [sum(getattr(each, field) for each in row) for row in found]
        assert means == sorted(means), field
    lost = [simulate(ROUGH, replace(LOSSY, life_s=life)).lost for life in lives]
    assert lost == sorted(lost)
    assert lost[-1] > 0


def test_a_shard_that_waits_at_a_lost_worker_has_not_used_up_a_try() -> None:
    # held for twice as long as with one in flight, but not lost eight times as often
    job, crew = Job(6000, shard_s=1), Crew(50, life_s=3)
    one, two = (simulate(job, crew, Driver(in_flight=count)).lost for count in (1, 2))
    assert two == pytest.approx(one, rel=0.25)


def test_the_driver_and_the_store_bound_what_they_serve() -> None:
    job = Job(shards=2000, shard_s=10)
    driver = simulate(job, Crew(500), Driver(dispatch_s=0.1))
    assert driver.makespan_s >= 2000 * 0.1
    assert driver.driver > 0.9
    assert driver.efficiency < 0.25
    store = simulate(replace(job, store_s=0.1), Crew(500))
    assert store.makespan_s == pytest.approx(2000 * 0.1, rel=0.05)
    assert store.store > 0.95
    assert store.busy < 0.25
    ample = simulate(replace(job, store_s=0.01), Crew(500), Driver(dispatch_s=0.001))
    assert ample.efficiency > 0.9


def test_slow_workers_are_busy_and_late() -> None:
    job, crew = Job(shards=20_000, shard_s=1), Crew(200)
    even, uneven = simulate(job, crew), simulate(job, replace(crew, slow=0.2, slowdown=3))
    assert even.efficiency == pytest.approx(1)
    # a fifth of the workers at a third of the speed: 1 - 0.2 * 2 / 3 of the crew
    assert uneven.efficiency == pytest.approx(0.867, abs=0.06)
    assert uneven.busy > 0.9


def test_planted_faults_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    run = scale_simulation._Run
    keep = run.loss

    def forgetful(self: scale_simulation._Run, place: int) -> None:
        self.workers[place].held.clear()
        keep(self, place)

    monkeypatch.setattr(run, "loss", forgetful)
    with pytest.raises(AssertionError):
        # never settled: the test is cut off where a sound run would long be over
        assert settled_by(1e5) == ROUGH.shards
    monkeypatch.setattr(run, "loss", keep)
    assert settled_by(1e5) == ROUGH.shards


def settled_by(time_s: float) -> int:
    """Shards of a rough job that are settled until then."""
    run = scale_simulation._Run(ROUGH, LOSSY, Driver(), seed=0)
    for place in range(LOSSY.workers):
        run.hire(place)
    while run.done + run.lost < ROUGH.shards and run.now < time_s:
        run.step()
    return run.done + run.lost


def test_the_tables_start_from_the_stated_assumptions() -> None:
    found = cases()
    assert [*found] == [
        *("workers", "losses", "stragglers", "shards", "in flight", "driver", "store")
    ]
    assert found["workers"][0].job == planned(IMAGENET)
    assert planned(IMAGENET).shards == 626
    assert planned(IMAGENET).shard_s == pytest.approx(24, abs=0.05)
    counts = [case.crew.workers for case in found["workers"]]
    assert (min(counts), max(counts)) == (10, 10_000)


def test_it_prints_tables_and_writes_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Case("small", Job(50, 24), replace(CREW, workers=5), DRIVER)
    monkeypatch.setattr(scale_simulation, "cases", lambda: {"one": [small]})
    path = tmp_path / "scale.json"
    result = CliRunner().invoke(main, ["--json", str(path)])
    assert result.output.splitlines()[4].startswith("| small | 5 | 50 | 24 s | ")
    (row,) = json.loads(path.read_text())
    assert (row["table"], row["done"], row["crew"]["workers"]) == ("one", 50, 5)
    mine = CliRunner().invoke(main, ["--images", "1e5", "--workers", "7", "--life", "inf"])
    assert mine.output.splitlines()[2].startswith("| 100,000 images | 7 | 49 | ")
    assert "| shards LOST |" not in mine.output


@pytest.mark.exhaustive
def test_the_tables_of_the_page_are_what_the_command_prints() -> None:
    result = CliRunner().invoke(main)
    assert result.exit_code == 0, result.output
    page = (ROOT / "docs/guides/scale.md").read_text()
    for part in result.output.strip().split("\n\n")[1::2]:
        assert part in page


def picture() -> ModuleType:
    """The script that draws, which is in no package."""
    spec = importlib.util.spec_from_file_location("draw_scale", ROOT / "docs/draw_scale.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_has_a_point_for_each_row_of_the_first_table() -> None:
    counts: dict[str, int] = {}
    for case in cases()["workers"]:
        counts[case.name] = counts.get(case.name, 0) + 1
    committed = (ROOT / "docs/guides/scale.svg").read_text()
    lines = re.findall(r'<polyline points="([^"]+)"', committed)
    assert [len(line.split()) for line in lines] == [*counts.values()]
    assert all(f">{name}</text>" in committed for name in counts)
    whole = picture().drawn({name: [(10, 1.0), (10_000, 0.0)] for name in counts})
    assert whole.count('points="62.0,20.0 622.0,270.0"') == len(counts)


@pytest.mark.exhaustive
def test_the_picture_is_what_the_script_draws() -> None:
    script = picture()
    committed = (ROOT / "docs/guides/scale.svg").read_text()
    assert script.drawn(script.simulated()) == committed
