"""Groups are measured once, on machines that have what they ask for; what is lost is written."""

from __future__ import annotations

import errno
import json
import os
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from fakes.crew import Doing, FakeCrew
from fakes.pages import stored_run
from resnext.cluster.crew import Answer, Ended, Event, Ready
from resnext.cluster.dispatch import dispatch
from resnext.errors import MissingRequirement, SessionFailed, UsageError
from resnext_bench.cli.bench import main
from resnext_bench.fleet import cells, running
from resnext_bench.fleet.placement import Machine, places_for, this_machine
from resnext_bench.fleet.plan_file import PlanFile, make_plan
from resnext_bench.fleet.results import Results
from resnext_bench.fleet.running import run_groups

RUN = stored_run().model_dump_json().encode()
TITLED = [(f"batch {size}", ("--batch", str(size))) for size in (1, 8, 64)]


def machine(gpu: str, isa: str = "avx512_vnni", cores: int = 8) -> Machine:
    labels = {"isa": (isa, "avx2"), "gpu": (gpu,), "cores": (str(cores),), "cpu": ("EPYC",)}
    return Machine(gpu, gpu[:4], labels)


MACHINES = {
    "a": machine("none"),
    "b": machine("NVIDIA H100 80GB"),
    "c": machine("NVIDIA H100 80GB"),
}


def done(slot: str, id: str, _: Any) -> Event:
    return Answer(slot, id, RUN)


def crew(does: Doing = done, **more: Any) -> FakeCrew:
    return FakeCrew({f"{place} 0": place for place in MACHINES}, does, **more)


def plan(*on: str, each: bool = False) -> PlanFile:
    return make_plan(TITLED, [], on, each=each)


def run(folder: Path, made: PlanFile, workers: FakeCrew, **more: Any) -> Any:
    results = Results.begin(folder, made)
    return run_groups(results, made.groups, workers, MACHINES, **more)


def test_every_group_is_written_and_none_is_measured_again(tmp_path: Path) -> None:
    made, first, second = plan(), crew(), crew()
    assert run(tmp_path, made, first) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["plan.json", *(f"{group.id}.json" for group in made.groups)]
    )
    (tmp_path / f"{made.groups[1].id}.json").unlink()  # its driver was killed
    run(tmp_path, made, second)
    assert [id for _, id in second.given] == [made.groups[1].id]


def test_a_group_runs_where_its_labels_are(tmp_path: Path) -> None:
    workers = crew()
    run(tmp_path, plan("gpu=h100", "isa=avx512"), workers)
    assert {slot for slot, _ in workers.given} <= {"b 0", "c 0"}


def test_each_is_once_for_every_kind_of_machine(tmp_path: Path) -> None:
    made, workers = plan(each=True), crew()
    run(tmp_path, made, workers)
    assert sorted(id for _, id in workers.given) == sorted(
        f"{group.id}-{kind}" for group in made.groups for kind in ("none", "NVID")
    )


def test_a_kind_of_machine_that_was_not_reached_is_missing(tmp_path: Path) -> None:
    made = plan(each=True)

    def does(slot: str, id: str, _: Any) -> Event:
        if id.endswith("NVID"):
            raise KeyboardInterrupt
        return Answer(slot, id, RUN)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, made, crew(does))
    results = Results.read(tmp_path)
    missing = {loss.name for group in made.groups for loss in results.losses(group)}
    assert {f"{group.id}-NVID" for group in made.groups} <= missing
    assert all(loss.status == "missing" for g in made.groups for loss in results.losses(g))
    run(tmp_path, made, crew())
    assert not list(tmp_path.glob("*.lost.json"))


def test_a_label_that_nothing_has_lists_what_there_is() -> None:
    with pytest.raises(
        MissingRequirement, match=r"no machine has gpu=B200; there are: .*H100"
    ) as raised:
        places_for(["gpu=B200"], MACHINES)
    assert str(raised.value).count("H100") == 1
    assert places_for(["cores=8"], MACHINES) == frozenset("abc")
    with pytest.raises(MissingRequirement):
        places_for(["cores=80"], MACHINES)


def test_this_machine_has_its_own_labels() -> None:
    here = this_machine()
    wanted = [f"{key}={value}" for key, values in here.labels.items() for value in values]
    assert places_for(wanted, {"here": here}) == {"here"}


def test_a_group_without_an_answer_is_written_as_lost_and_tried_again(tmp_path: Path) -> None:
    made = plan()
    id = made.groups[0].id

    def does(slot: str, given: str, _: Any) -> Event:
        if given == id:
            return Ended(slot, "ActorDiedError: its node has died")
        return Answer(slot, given, error=SessionFailed("its process ended (signal SIGSEGV): x"))

    losses = run(tmp_path, made, crew(does))
    assert [(loss.status, loss.tries) for loss in losses if loss.name == id] == [("LOST", 3)]
    assert sum(loss.status == "FAILED" for loss in losses) == 2
    note = json.loads((tmp_path / f"{id}.lost.json").read_text())
    assert note["reason"] == "ActorDiedError: its node has died"
    assert run(tmp_path, made, crew()) == []
    assert not list(tmp_path.glob("*.lost.json"))


def test_a_hung_machine_loses_its_group_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def does(slot: str, given: str, _: Any) -> Event | None:
        return None if slot == "a 0" else Answer(slot, given, RUN)

    workers = crew(does)
    monkeypatch.setattr(running, "dispatch", partial(dispatch, clock=workers.clock))
    assert run(tmp_path, plan(), workers, patience_s=20) == []
    assert workers.stopped[0] == "a 0"


def test_a_full_disk_is_one_error_and_what_was_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, sync, calls = plan(), os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 2:  # the plan and one run
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(MissingRequirement, match="No space left"):
            run(tmp_path, made, crew())
    assert len(list(tmp_path.glob("*.json"))) == 2
    assert not list(tmp_path.glob(".*"))
    again = crew()
    assert run(tmp_path, made, again) == []
    assert len(again.given) == 2


def test_results_of_another_plan_are_not_mixed(tmp_path: Path) -> None:
    run(tmp_path, plan(), crew())
    with pytest.raises(UsageError, match="another plan"):
        run(tmp_path, plan("gpu=H100"), crew())


def test_what_no_worker_can_be_made_for_writes_nothing(tmp_path: Path) -> None:
    error = MissingRequirement("resnext-toolkit 9 is installed there")
    with pytest.raises(MissingRequirement, match="installed there"):
        run(tmp_path, plan(), crew(starts=lambda slot: Ended(slot, str(error), error)))
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_a_machine_that_is_refused_leaves_its_groups_to_the_others(tmp_path: Path) -> None:
    error = MissingRequirement("resnext-toolkit 9 is installed there")
    workers = crew(
        starts=lambda slot: Ended(slot, str(error), error) if slot == "a 0" else Ready(slot)
    )
    assert run(tmp_path, plan(), workers) == []
    assert {slot for slot, _ in workers.given} == {"b 0", "c 0"}


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os; os.abort()", r"signal SIGABRT\): no message"),
        ("import sys; print('error: no', file=sys.stderr); sys.exit(2)", r"exit code 2\): no$"),
        ("pass", r"exit code 0\): no message"),  # it wrote no run
        ("import sys; open('run.json', 'w').close(); sys.exit(70)", r"exit code 70"),
    ],
)
def test_a_process_without_a_run_is_a_failure_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, code: str, says: str
) -> None:
    monkeypatch.setattr(cells, "_START", code)
    with pytest.raises(SessionFailed, match=says):
        cells.run_group([])


def test_a_group_runs_in_a_process_with_the_arrived_files(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; open(sys.argv[-1], 'w').write(' '.join(sys.argv[2:])); sys.exit(1)"
    monkeypatch.setattr(cells, "_START", code)
    work = cells.runner(["/there/int8"], Path("/here/int8"))
    assert work(["--artifact", "/there/int8"]) == b"--artifact /here/int8 --json run.json"


def test_the_process_has_installed_packages_rather_than_those_of_ray(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = ModuleType("ray")
    ray.__file__ = "/env/ray/__init__.py"
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(sys, "path", ["/env/ray/thirdparty_files", *sys.path])
    monkeypatch.setattr(
        cells, "_START", "import sys; open(sys.argv[-1], 'w').write(sys.argv[1]); sys.exit(1)"
    )
    assert cells.run_group([]).decode().splitlines() == sys.path[1:]


def test_a_changed_artifact_is_refused_before_anything_runs(tmp_path: Path) -> None:
    artifact = tmp_path / "model.onnx"
    artifact.write_text("a")
    made = make_plan([("batch 1", ("--artifact", str(artifact)))], [artifact], [], each=False)
    (tmp_path / "plan.json").write_text(made.model_dump_json())
    artifact.write_text("b")
    words = ["run-cells", str(tmp_path / "plan.json"), "--into", str(tmp_path / "results")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 4
    assert "model.onnx has changed" in done.output


def test_an_index_and_an_id_name_the_same_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan()
    (tmp_path / "plan.json").write_text(made.model_dump_json())
    ran: list[Any] = []

    def remember(_: Results, groups: Any, *rest: Any, **options: Any) -> list[Any]:
        assert len(rest) == 2
        assert options["patience_s"] == (90 if len(ran) == 2 else 1800)
        ran.append(groups)
        return []

    monkeypatch.setattr(running, "run_groups", remember)
    words = ["run-cells", str(tmp_path / "plan.json"), "--into", str(tmp_path / "results")]
    for more in (["--index", "1"], ["--only", made.groups[1].id[:6]], ["--patience", "90s"]):
        done = CliRunner().invoke(main, [*words, *more])
        assert done.exit_code == 0, done.output
    assert ran == [[made.groups[1]], [made.groups[1]], list(made.groups)]
    beyond = CliRunner().invoke(main, [*words, "--index", "3"])
    assert (beyond.exit_code, "groups are 0 to 2" in beyond.output) == (4, True)
    both = CliRunner().invoke(main, [*words, "--index", "1", "--only", "x"])
    assert (both.exit_code, "both say which group" in both.output) == (2, True)


def test_losses_end_the_command_with_4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan()
    (tmp_path / "plan.json").write_text(made.model_dump_json())
    workers = crew(lambda slot, *_: Ended(slot, "gone"))
    monkeypatch.setattr(running, "LocalCrew", lambda *_, **__: workers)
    monkeypatch.setattr(running, "this_machine", lambda: MACHINES["a"])
    done = CliRunner().invoke(
        main, ["run-cells", str(tmp_path / "plan.json"), "--into", str(tmp_path / "results")]
    )
    assert done.exit_code == 4
    assert done.output.count("LOST") >= 3
    assert "3 of them without a run" in done.output
