"""What a plan gave: a table for each kind of machine, and nothing left out in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

import junit_schema
from fakes.pages import stored_run
from resnext.cluster.units import Settled, Unit
from resnext.errors import BadInput
from resnext_bench.cli.bench import main
from resnext_bench.fleet import plan_file
from resnext_bench.fleet.merged import merge, one_run
from resnext_bench.fleet.plan_file import make_plan
from resnext_bench.fleet.results import Results
from resnext_bench.result import Run

TITLED = [(f"batch {size}", ("--batch", str(size))) for size in (1, 8)]


def part(batch: int, cpu: str | None = None, **changes: Any) -> Run:
    """The rows of one batch size, maybe from another machine."""
    run = stored_run()
    environment = run.environment.model_copy(update={} if cpu is None else {"cpu": cpu})
    rows = tuple(row for row in run.rows if row.batch == batch)
    return run.model_copy(update={"rows": rows, "environment": environment, **changes})


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results.begin(tmp_path / "results", make_plan(TITLED, [], [], each=False))


def keep(results: Results, index: int, run: Run | None, kind: str = "", lost: str = "") -> None:
    unit = Unit(results.plan.groups[index].id + kind)
    receipt = None if run is None else run.model_dump_json().encode()
    results.keep(Settled(unit, "a", 3, receipt, lost=lost))


def call(results: Results, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["merge", str(results.folder), *words])
    return done.exit_code, done.output


def test_groups_of_one_machine_are_one_table_with_the_speedups_of_each(results: Results) -> None:
    keep(results, 0, part(1))
    keep(results, 1, part(8))
    (table,) = merge(results).tables
    assert sorted(table.rows, key=str) == sorted(stored_run().rows, key=str)
    assert call(results)[0] == 0


def test_two_kinds_of_machine_are_two_tables_without_a_common_speedup(
    results: Results, tmp_path: Path
) -> None:
    keep(results, 0, part(1), "-aaaa")
    keep(results, 0, part(1, "Other CPU"), "-bbbb")
    keep(results, 1, part(8))
    merged = merge(results)
    assert len(merged.tables) == 2
    assert "Other CPU" in {table.environment.cpu for table in merged.tables}
    targets = [tmp_path / name for name in ("a.html", "a.md", "a.json")]
    code, _ = call(
        results, "--html", str(targets[0]), "--markdown", str(targets[1]), "--json", str(targets[2])
    )
    assert code == 0
    for target in targets:
        assert "Other CPU" in target.read_text()
    assert len(json.loads(targets[2].read_text())["tables"]) == 2


def test_tables_of_one_machine_say_which_packages_set_them_apart(
    results: Results, tmp_path: Path
) -> None:
    environment = part(8).environment
    packages = {**environment.packages, "torch": "9.9"}
    keep(results, 0, part(1))
    keep(
        results,
        1,
        part(8, environment=environment.model_copy(update={"packages": packages})),
    )
    targets = [tmp_path / name for name in ("a.html", "a.md")]
    _, output = call(results, "--html", str(targets[0]), "--markdown", str(targets[1]))
    for text in (output, *(target.read_text() for target in targets)):
        assert "his table: torch 9.9" in text
        assert f"his table: torch {environment.packages['torch']}" in text
    keep(results, 1, part(8))
    assert "his table:" not in call(results)[1]


@pytest.mark.parametrize(
    "other",
    [
        part(8, "Other CPU"),
        part(8, threads=7),
        part(8).model_copy(
            update={
                "environment": part(8).environment.model_copy(update={"packages": {"torch": "9"}})
            }
        ),
    ],
    ids=["machine", "threads", "packages"],
)
def test_a_mixed_comparison_is_refused(other: Run) -> None:
    one_run([part(1), part(8)])
    with pytest.raises(BadInput, match="cannot be one table"):
        one_run([part(1), other])


def test_rows_that_were_not_measured_together_are_not_compared(results: Results) -> None:
    keep(results, 0, part(1))
    keep(results, 1, part(1))  # a file that was copied by hand
    code, output = call(results)
    assert (code, "have the same batch size" in output) == (4, True)


def test_the_noisiest_run_speaks_for_the_table() -> None:
    quiet = part(1)
    assert quiet.control is not None
    assert quiet.control.noise_floor is not None
    noisy = part(8, control=quiet.control.model_copy(update={"ratio": None}))
    assert one_run([quiet, noisy]).control == noisy.control
    assert one_run([noisy, quiet]).control == noisy.control


def test_lost_and_missing_groups_are_rows_and_an_exit_code(
    results: Results, tmp_path: Path
) -> None:
    keep(results, 0, None, lost="its node has died")
    markdown, page = tmp_path / "a.md", tmp_path / "a.html"
    code, output = call(results, "--markdown", str(markdown), "--html", str(page))
    assert code == 4
    for text in (output, markdown.read_text(), page.read_text()):
        for word in ("LOST", "its node has died", "missing", "not run yet"):
            assert word in text
    assert "2 of 2 groups have no run" in output


def test_a_ci_server_gets_every_row_and_every_group_without_a_run(
    results: Results, tmp_path: Path
) -> None:
    keep(results, 0, part(1))
    path = tmp_path / "junit.xml"
    call(results, "--junit", str(path))
    suite = ElementTree.parse(path).getroot()[0]
    assert junit_schema.problems(path.read_text()) == []
    assert (suite.attrib["tests"], suite.attrib["errors"]) == (str(len(part(1).rows) + 1), "1")
    assert 'name="batch 8 (' in path.read_text()


def test_a_loss_is_forgotten_once_the_group_is_measured(results: Results) -> None:
    keep(results, 0, None, lost="its node has died")
    keep(results, 0, part(1))
    keep(results, 1, part(8))
    assert not merge(results).absent


def test_an_invalid_row_is_1_whatever_else_is_wrong(results: Results) -> None:
    run = part(1)
    wrong = run.rows[0].model_copy(update={"status": "invalid", "reasons": ("wrong",)})
    keep(results, 0, run.model_copy(update={"rows": (wrong, *run.rows[1:])}))
    assert call(results)[0] == 1


def test_results_of_an_earlier_toolkit_are_still_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(plan_file, "__version__", "0.0.9")
        early = Results.begin(tmp_path / "early", make_plan(TITLED, [], [], each=False))
    keep(early, 0, part(1))
    keep(early, 1, part(8))
    assert call(early)[0] == 0


@pytest.mark.parametrize("content", [None, "{}", '{"format_version": 2}'])
def test_a_folder_or_file_that_is_none_of_ours_is_refused(
    results: Results, content: str | None
) -> None:
    if content is None:
        (results.folder / "plan.json").unlink()
    else:
        (results.folder / f"{results.plan.groups[0].id}.json").write_text(content)
    code, output = call(results)
    assert code == 4
    assert output.startswith("error:")
    assert content is None or "delete it" in output
