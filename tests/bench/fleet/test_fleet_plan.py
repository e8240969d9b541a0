"""A plan has a group for each batch size, whose id is what is measured."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from resnext_bench.cli.bench import main
from resnext_bench.cli.plan import options_of_bench
from resnext_bench.fleet import plan_file
from resnext_bench.fleet.plan_file import PlanFile, read_plan

EARLIER = Path(__file__).parents[2] / "core" / "data" / "earlier_artifacts"
OPTIONS = ("--backend", "torch,ort-cpu", "--batch", "1,8", "--weights", "digits")


def planned(folder: Path, *words: str) -> PlanFile:
    done = CliRunner().invoke(main, ["plan", *words, "--output", str(folder / "plan.json")])
    assert done.exit_code == 0, done.output
    return read_plan(folder / "plan.json")


def refusal(folder: Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["plan", *words, "--output", str(folder / "plan.json")])
    assert not (folder / "plan.json").exists()
    return done.exit_code, done.output


def test_a_group_is_all_rows_of_one_batch(tmp_path: Path) -> None:
    plan = planned(tmp_path, *OPTIONS, "--seed=3", "--no-cuda-graph", "--cold-start")
    assert [group.title for group in plan.groups] == ["batch 1", "batch 8"]
    assert plan.groups[1].arguments == (
        *("--backend", "torch,ort-cpu", "--weights", "digits", "--seed", "3"),
        *("--no-cuda-graph", "--cold-start", "--batch", "8"),
    )
    assert plan.at(1) == plan.groups[1] == plan.group(plan.groups[1].id[:5])


def test_the_id_is_what_is_measured_however_it_was_typed(tmp_path: Path) -> None:
    ids = {group.id for group in planned(tmp_path, *OPTIONS, "--seed", "3").groups}
    again = planned(tmp_path, "--seed=3", *OPTIONS)
    assert {group.id for group in again.groups} == ids
    for other in (["--seed=4"], ["--seed=3", "--on=gpu=H100"], ["--seed=3", "--on=each"]):
        assert ids.isdisjoint(group.id for group in planned(tmp_path, *OPTIONS, *other).groups)


def test_together_is_one_group(tmp_path: Path) -> None:
    (group,) = planned(tmp_path, *OPTIONS, "--together").groups
    assert group.arguments[-2:] == ("--batch", "1,8")


def test_artifacts_travel_and_change_the_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EARLIER / "onnx-fp32", "int8")
    Path("photos").mkdir()
    words = ("--backend", "ort-cpu", "--artifact", "int8/model.onnx", "--accuracy", "photos")
    first = planned(tmp_path, *words)
    folder = str(tmp_path / "int8")
    assert [record.path for record in first.parcels] == [folder]
    assert folder in first.groups[0].arguments
    assert str(tmp_path / "photos") in first.groups[0].arguments
    Path("int8", "verdict.json").write_text("other bytes")
    assert planned(tmp_path, *words).groups[0].id != first.groups[0].id


def test_the_checkpoint_of_an_artifact_travels_with_it(tmp_path: Path) -> None:
    shutil.copytree(EARLIER / "onnx-fp32", tmp_path / "artifact")
    checkpoint = tmp_path / "tiny.safetensors"
    manifest = tmp_path / "artifact" / "manifest.json"
    manifest.write_text(
        manifest.read_text().replace("/checkpoints/tiny.safetensors", str(checkpoint))
    )
    words = ("--backend", "ort-cpu", "--artifact", str(tmp_path / "artifact"))
    assert len(planned(tmp_path, *words).parcels) == 1  # it is not here; machines may have it
    checkpoint.write_bytes(b"weights")
    for more in ((), ("--weights", str(checkpoint))):
        plan = planned(tmp_path, *words, *more)
        assert {record.path for record in plan.parcels} == {str(checkpoint), words[-1]}
        assert plan.groups[0].arguments.count(str(checkpoint)) == 1


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--batch", "1"), 2, "--backend is needed"),
        (("--backend", "ort-cup"), 2, "did you mean 'ort-cpu'"),
        (("--backend", "ort", "--artifact", "x", "--model", "resnext50_32x4d"), 2, "own model"),
        (("--backend", "ort", "--artifact", "x", "--batch", "0"), 2, "--batch"),
        ((*OPTIONS, "--slo", "20ms"), 2, "--slo is for --load"),
        ((*OPTIONS, "--load", "closed:2", "--cache", "cold"), 2, "keep the caches hot"),
        (("--backend", "ort", "--artifact", "x", "--resize", "9"), 2, "own preprocessing"),
        ((*OPTIONS, "--on", "gpus=H100"), 2, "unknown label 'gpus'; did you mean 'gpu'"),
        ((*OPTIONS, "--on", "H100"), 2, "not KEY=VALUE"),
        ((*OPTIONS, "--json", "x"), 2, "--json"),
        ((*OPTIONS, "--accuracy", "photos"), 4, "cannot read photos"),
        (("--backend", "ort", "--artifact", "x"), 4, "no artifact at x"),
    ],
)
def test_what_no_machine_could_measure_is_refused(
    tmp_path: Path, words: tuple[str, ...], code: int, says: str
) -> None:
    found, output = refusal(tmp_path, *words)
    assert (found, says in output) == (code, True), output


def test_a_plan_on_stdout_is_nothing_but_the_plan() -> None:
    done = CliRunner().invoke(main, ["plan", *OPTIONS, "--output", "-"])
    assert len(PlanFile.model_validate_json(done.stdout).groups) == 2
    assert "batch 8" in done.stderr


def test_every_option_of_the_benchmark_is_planned_or_names_an_output() -> None:
    left = {param.name for param in main.params} - {each.name for each in options_of_bench()}
    assert left == {
        *("json_path", "markdown_path", "html_path", "junit_path", "loadgen_logs", "explain"),
        *("version", "debug"),
    }


def test_a_plan_of_another_toolkit_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(plan_file, "__version__", "9")
        planned(tmp_path, *OPTIONS)
    code, output = measured(tmp_path)
    assert (code, "was made by resnext-toolkit 9" in output) == (4, True)


@pytest.mark.parametrize(
    "change",
    [
        lambda groups: groups[0].update(id="../../elsewhere"),
        lambda groups: groups[0].update(arguments=["ab", "torch", "ort-cpu"]),
        lambda groups: groups[0].update(on=["gpu"]),
        lambda groups: groups.append(groups[0]),
    ],
    ids=["id", "arguments", "on", "twice"],
)
def test_a_plan_that_was_changed_by_hand_is_refused(
    tmp_path: Path, change: Callable[[list[Any]], None]
) -> None:
    plan = planned(tmp_path, *OPTIONS).model_dump(mode="json")
    change(plan["groups"])
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    code, output = measured(tmp_path)
    assert (code, "was changed after it was made" in output) == (4, True)
    assert not (tmp_path / "results").exists()


def measured(folder: Path) -> tuple[int, str]:
    words = ["run-cells", str(folder / "plan.json"), "--into", str(folder / "results")]
    done = CliRunner().invoke(main, words)
    return done.exit_code, done.output
