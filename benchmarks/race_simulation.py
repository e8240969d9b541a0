"""Races candidates with known times, again and again, against timing all of them to the end.

    python benchmarks/race_simulation.py [--trials 150] [--seed 0] [--json PATH]

1. In every trial, the choice of a race takes at most 1 % longer than that of the full grid, which
   has seen every candidate in every round; of planted candidates at most 1 % longer than the best.
2. A race visits its candidates at most a quarter as often as the grid, over all planted machines
   and over all recorded ones. Where most candidates are alike it needs more: these have no limit.

Planted times meet a noisy machine. Recorded ones are those of the stored benchmarks: the rows of a
machine are the candidates, and each round is drawn from the recorded rounds, with replacement.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import click
import numpy as np
from numpy.typing import NDArray

from resnext.timing.intervals import hodges_lehmann
from resnext.timing.race import RULES, Race, Rules

#: Stored benchmarks.
RESULTS = Path(__file__).parent / "results"
#: Most that a race's choice may take longer than the grid's.
REGRET = 0.01
#: Largest share of the grid's visits.
VISITS = 0.25

#: True times of the candidates, and what each takes in each round (rounds x candidates).
Trial: TypeAlias = "tuple[NDArray[Any], NDArray[Any]]"
#: A trial with the given number of rounds.
World: TypeAlias = Callable[[np.random.Generator, int], Trial]


@dataclass(frozen=True)
class Planted:
    """Candidates with planted times, on a machine as noisy as a shared one.

    Each round the machine drifts further, a random walk with steps of 1 % that all candidates
    share. A visit varies by 1.2 %, with heavy tails (Student's t, 3 degrees of freedom), and one of
    a hundred meets a burst of load that takes up to half its time more.

    Attributes:
        count: number of candidates, their times spread over a factor of four.
        close: how many of them are within ``within`` of the best.
        within: share of its time.
    """

    count: int = 48
    close: int = 6
    within: float = 0.03

    def __call__(self, rng: np.random.Generator, rounds: int) -> Trial:
        """A trial."""
        truth = np.exp(rng.uniform(0, math.log(4), self.count))
        order = np.argsort(truth)[: self.close + 1]
        truth[order[1:]] = truth[order[0]] * (1 + rng.uniform(0, self.within, len(order) - 1))
        shape = rounds, self.count
        drift = rng.normal(0, 0.01, (rounds, 1)).cumsum(axis=0)
        visits = 0.012 / math.sqrt(3) * rng.standard_t(3, shape)
        bursts = (rng.random(shape) < 0.01) * rng.uniform(0, 0.5, shape)
        return truth, truth * np.exp(drift + visits) * (1 + bursts)


@dataclass(frozen=True)
class Recorded:
    """Candidates with recorded times.

    Attributes:
        runs: logarithms of nanoseconds for an image, rounds x rows of each run. The true time of a
            row is its mean.
    """

    runs: tuple[NDArray[Any], ...]

    @property
    def mostly_alike(self) -> bool:
        """Whether most rows are within 3 % of the best, as those of one network in many forms."""
        truth = np.concatenate([run.mean(axis=0) for run in self.runs])
        return bool(np.median(truth) <= truth.min() + math.log(1.03))

    def __call__(self, rng: np.random.Generator, rounds: int) -> Trial:
        """A trial: the rows of a run have the same rounds, those of different runs do not."""
        drawn = [run[rng.integers(0, len(run), rounds)] for run in self.runs]
        truth = np.concatenate([run.mean(axis=0) for run in self.runs])
        return np.exp(truth), np.exp(np.concatenate(drawn, axis=1))


def recorded(folder: Path = RESULTS) -> dict[str, Recorded]:
    """The stored benchmarks by machine and network: host times of all rows, each round the median
    of its runs, without rounds that were disturbed for one of the rows.
    """
    runs: dict[str, list[NDArray[Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        rows = json.loads(path.read_text()).get("rows") or []
        timings = [
            (timing, row["batch"])
            for row in rows
            for timing in row.get("timings") or []
            if timing["boundary"] == "host"
        ]
        disturbed = {index for timing, _ in timings for index in timing.get("disturbed") or []}
        logs = [
            [math.log(statistics.median(runs_ns) / batch) for runs_ns in timing["rounds_ns"]]
            for timing, batch in timings
        ]
        if logs:
            rounds = [index for index in range(len(logs[0])) if index not in disturbed]
            name = re.sub(r"^[\d-]{11}|-[a-z]+\d+$", "", path.stem)
            runs.setdefault(name, []).append(np.array(logs).T[rounds])
    return {name: Recorded(tuple(each)) for name, each in runs.items()}


def worlds() -> dict[str, World]:
    """Everything that is simulated, by name."""
    planted: dict[str, World] = {
        "planted, no other within 3 %": Planted(close=0),
        "planted, 6 more within 3 %": Planted(),
    }
    alike: dict[str, World] = {
        "alike, 24 more within 3 %": Planted(close=24),
        "alike, all within 5 %": Planted(close=47, within=0.05),
    }
    found = {
        f"{'alike' if each.mostly_alike else 'recorded'}, {name}": each
        for name, each in recorded().items()
    }
    return planted | alike | found


@dataclass(frozen=True)
class Outcome:
    """What a race came to.

    Attributes:
        regret: true time of the chosen one over that of the best, minus 1.
        grid_regret: the same of the one that the full grid chose.
        behind_grid: true time of the race's choice over that of the grid's, minus 1.
        kept: the best, or one within 1 % of it, was in the race to the end.
        rounds: of the race.
        visits: of the race.
        grid_visits: of the full grid.
    """

    regret: float
    grid_regret: float
    behind_grid: float
    kept: bool
    rounds: int
    visits: int
    grid_visits: int


def raced(times: NDArray[Any], rules: Rules) -> tuple[Race[int], int]:
    """The race over ``times`` (rounds x candidates), and its number of visits."""
    race, visits = Race(range(times.shape[1]), rules), 0
    while race.ended is None:
        visits += len(race.in_race)
        race.add({place: times[race.rounds, place] for place in race.in_race})
    return race, visits


def outcome(trial: Trial, rules: Rules) -> Outcome:
    """A race over ``trial``, and the full grid's choice from the same rounds."""
    truth, times = trial
    race, visits = raced(times, rules)
    logs = np.log(times)
    levels = [*map(hodges_lehmann, (logs - logs.mean(axis=1, keepdims=True)).T)]
    grid = levels.index(min(levels))
    assert race.leader is not None
    chosen, best = truth[race.leader], truth.min()
    return Outcome(
        regret=float(chosen / best - 1),
        grid_regret=float(truth[grid] / best - 1),
        behind_grid=float(chosen / truth[grid] - 1),
        kept=bool(min(truth[place] for place in race.in_race) <= best * 1.01),
        rounds=race.rounds,
        visits=visits,
        grid_visits=times.size,
    )


@dataclass(frozen=True)
class Row:
    """The outcomes of one world.

    Attributes:
        name: of the world.
        candidates: their number.
        regret: mean and worst, as in `Outcome`.
        grid_regret: likewise.
        behind_grid: worst.
        kept: share of trials.
        rounds: mean.
        visits: of all trials.
        grid_visits: of all trials.
    """

    name: str
    candidates: int
    regret: tuple[float, float]
    grid_regret: tuple[float, float]
    behind_grid: float
    kept: float
    rounds: float
    visits: int
    grid_visits: int


def simulate(name: str, world: World, trials: int, seed: int = 0, rules: Rules = RULES) -> Row:
    """``trials`` races in ``world``."""
    rng = np.random.default_rng(seed)
    outcomes = [outcome(world(rng, rules.rounds), rules) for _ in range(trials)]

    def mean_and_worst(field: str) -> tuple[float, float]:
        values = [getattr(each, field) for each in outcomes]
        return statistics.fmean(values), max(values)

    return Row(
        name=name,
        candidates=outcomes[0].grid_visits // rules.rounds,
        regret=mean_and_worst("regret"),
        grid_regret=mean_and_worst("grid_regret"),
        behind_grid=mean_and_worst("behind_grid")[1],
        kept=mean_and_worst("kept")[0],
        rounds=mean_and_worst("rounds")[0],
        visits=sum(each.visits for each in outcomes),
        grid_visits=sum(each.grid_visits for each in outcomes),
    )


def missed(rows: list[Row]) -> Iterator[str]:
    """The limits that ``rows`` miss, in sentences."""
    for row in rows:
        if row.behind_grid > REGRET:
            yield f"{row.name}: {row.behind_grid:.2%} behind the grid, allowed are {REGRET:.0%}"
        if not row.name.startswith("recorded") and row.regret[1] > REGRET:
            yield f"{row.name}: {row.regret[1]:.2%} behind the best, allowed are {REGRET:.0%}"
    for kind in ("planted", "recorded"):
        of_kind = [row for row in rows if row.name.startswith(kind)]
        grid = sum(row.grid_visits for row in of_kind)
        if of_kind and (share := sum(row.visits for row in of_kind) / grid) > VISITS:
            yield f"{kind}: {share:.1%} of the grid's visits, allowed are {VISITS:.0%}"


def table(rows: list[Row]) -> str:
    """``rows`` in Markdown."""
    lines = [
        "| candidates | | regret, mean / worst | of the grid | behind the grid, worst | best kept"
        " | rounds | visits |",
        "| --- |" + " ---: |" * 7,
    ]
    for row in rows:
        regret, grid = (f"{m:.2%} / {w:.2%}" for m, w in (row.regret, row.grid_regret))
        lines.append(
            f"| {row.name} | {row.candidates} | {regret} | {grid} | {row.behind_grid:.2%}"
            f" | {row.kept:.1%} | {row.rounds:.1f} | {row.visits / row.grid_visits:.1%} |"
        )
    return "\n".join(lines)


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.option("--trials", type=click.IntRange(min=1), default=150, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--json", "path", type=click.Path(path_type=Path), help="Also write the results here."
)
def main(trials: int, seed: int, path: Path | None) -> None:
    """Simulate every world, print a table, exit 1 where a limit is missed."""
    rows = [simulate(name, world, trials, seed) for name, world in worlds().items()]
    click.echo(table(rows))
    if path is not None:
        path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    for line in (lines := list(missed(rows))):
        click.echo(f"MISSED {line}")
    if lines:
        sys.exit(1)


if __name__ == "__main__":
    main()
