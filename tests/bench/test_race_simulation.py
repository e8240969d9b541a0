"""Races against the full grid: the limits hold, and a rule that breaks them is seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import race_simulation
from race_simulation import Planted, Recorded, Row, main, missed, recorded, simulate, worlds
from resnext.timing.race import Ended, Race, Rules

ALIKE = Planted(close=24)


def test_every_trial_is_within_the_limits() -> None:
    limited = {name: world for name, world in worlds().items() if not name.startswith("alike")}
    rows = [simulate(name, world, 4) for name, world in limited.items()]
    assert len(rows) >= 6
    assert list(missed(rows)) == []
    assert all(row.kept == 1 for row in rows)


@pytest.mark.exhaustive
def test_the_table_of_the_docs_is_what_the_command_prints() -> None:
    result = CliRunner().invoke(main)
    assert result.exit_code == 0, result.output
    docs = Path(__file__).parents[2] / "docs/concepts/measuring.md"
    assert result.output in docs.read_text()


def test_a_rule_that_drops_the_best_too_early_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    rash = simulate("alike", ALIKE, 20, rules=Rules(early_rounds=1, early_factor=1.001))
    assert "behind the best" in "".join(missed([rash]))
    assert rash.kept < 1

    class Hasty(Race[int]):
        """Takes the first round's order for the result."""

        @property
        def ended(self) -> Ended | None:
            return "rounds" if self.rounds else None

    monkeypatch.setattr(race_simulation, "Race", Hasty)
    hasty = simulate("recorded", ALIKE, 20)
    assert hasty.kept == 1  # it only looks as if
    assert "behind the grid" in "".join(missed([hasty]))


def test_a_rule_that_drops_nobody_is_seen() -> None:
    patient = simulate("planted", Planted(), 1, rules=Rules(early_factor=100, test_from=24))
    assert patient.visits == patient.grid_visits
    assert list(missed([patient])) == ["planted: 100.0% of the grid's visits, allowed are 25%"]


@pytest.mark.parametrize(
    ("times", "alike"), [((1.0, 1.01, 1.02, 1.5), True), ((1.0, 1.01, 1.2, 1.5), False)]
)
def test_a_recorded_machine_without_differences_has_no_limit(
    times: tuple[float, ...], alike: bool
) -> None:
    assert Recorded((np.log([times] * 3),)).mostly_alike == alike


def test_recorded_rounds_are_the_stored_ones() -> None:
    found = recorded()
    (run,) = found["h200-resnext50"].runs
    assert run.shape == (5, 3)
    two_days = found["xeon-6-167-amx-2cores-resnext50"].runs
    # 13 rounds of the last, of which three were disturbed for one row or another
    assert [each.shape for each in two_days] == [(5, 6), (5, 12), (10, 12)]


def test_it_prints_a_table_and_writes_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race_simulation, "worlds", lambda: {"planted": Planted(count=8, close=0)})
    path = tmp_path / "race.json"
    result = CliRunner().invoke(main, ["--trials", "3", "--json", str(path)])
    assert result.output.splitlines()[2].startswith("| planted | 8 | ")
    (row,) = json.loads(path.read_text())
    assert set(row) == set(Row.__dataclass_fields__)
    monkeypatch.setattr(race_simulation, "VISITS", 0.0)
    result = CliRunner().invoke(main, ["--trials", "1"])
    assert result.exit_code == 1
    assert "MISSED planted: " in result.output
