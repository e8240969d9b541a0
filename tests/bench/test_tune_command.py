"""`resnext-export tune`: what it writes, what it refuses, and what it goes on with."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fakes.simulated import Machine
from fakes.workshop import FakeConfirmer, FakeWorkshop, Plan
from resnext.artifact.files import Artifact, read_artifact
from resnext.errors import MissingRequirement
from resnext.findings import Finding
from resnext.runtimes.registry import ARTIFACT_RUNTIMES, RUNTIMES
from resnext.weights.spec import Weights, load_weights
from resnext_bench import read_tuned, tune_artifact
from resnext_bench.tune import api, space
from resnext_bench.tune.space import Point
from resnext_bench.tune.state import keep, only_search, state_path
from resnext_export.cli.export import main

DIGITS = ("--weights", "digits")
SEEDED = ("--weights", "seeded", "--model", "resnext11_8x4d_digits")


def tune(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["tune", *arguments])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with what an output may meet there."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "cut.tune.json").write_text("{}")
    (tmp_path / "damaged.tune.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    return tmp_path


REFUSED: dict[str, tuple[int, str]] = {
    # arguments after --output; exit code and a part of the line
    "best --gate agreement>=0.99,agreement<=0.9": (2, "contradict each other"),
    "best --slo p99<=20": (2, "the unit is missing; give ms or s"),
    "best --slo p99<=20ms,p99<=10ms": (2, "given twice"),
    "best --gate top1-loss<=-1%": (2, "must be from 0 to 100 %"),
    "best --gate agreement>=1.5": (2, "must be from 0 to 1"),
    "best --gate speed>=9": (2, "Known: agreement, top1, top1-loss, size, memory"),
    "best --goal fast": (2, "Known: latency, throughput"),
    "best --backend torch": (2, "unknown backend 'torch'"),
    "best --backend onnx-runtime": (2, "unknown backend"),
    "best --precision int4": (2, "unknown precision"),
    "best --batch 0": (2, "whole number of at least 1"),
    "best --batch 100000": (2, "--batch must be from 1 to 65536, not 100000"),
    "best --threads 5000": (2, "--threads must be from 1 to 4096, not 5000"),
    "best --streams 2000": (2, "--streams must be from 1 to 1024, not 2000"),
    "best --budget 0": (2, "minutes above 0"),
    "best --budget soon": (2, "for example 10, 90s or 2h"),
    "best --device cuda --backend ort-cpu": (2, "runs on cpu only"),
    "best --resume": (2, "there is no search to go on with"),
    "best --resume --force": (2, "give one"),
    "cut": (2, "go on with it with --resume"),
    "cut --resume": (4, "is not a stored search"),
    "damaged --resume": (4, "is not a stored search"),
    "full": (2, "other files besides an artifact; choose another --output"),
    "full --force": (2, "other files besides an artifact; choose another --output"),
    "file": (2, "file is not a folder"),
    "best --accuracy nowhere/": (4, "nowhere"),
    "best --calibration nowhere/": (4, "nowhere"),
    "best --calibration digits --calibration-images 90000": (4, "90000"),
}


@pytest.mark.parametrize(("arguments", "expected"), REFUSED.items())
def test_bad_input_is_refused_in_one_line_before_anything_is_built(
    folder: Path, arguments: str, expected: tuple[int, str]
) -> None:
    before = sorted(folder.rglob("*"))
    done = tune(*DIGITS, "--output", *shlex.split(arguments))
    code, message = expected
    assert done.exit_code == code, done.output
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--gate agreement>=0.9", "--gate agreement>=0.9 needs labeled images"),
        ("--accuracy-images 10", "--accuracy-images says how many of the images of --accuracy"),
    ],
)
def test_what_needs_labeled_images_is_refused_without_any(
    folder: Path, arguments: str, message: str
) -> None:
    done = tune(*SEEDED, "--output", str(folder / "best"), *shlex.split(arguments))
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_machine_without_any_of_the_runtimes_says_what_is_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = {
        "trt": Finding("x", "no GPU", "use another machine; to run, use `backend` torch"),
        "openvino": Finding("x", "openvino is not installed", "pip install openvino"),
    }
    monkeypatch.setattr(space, "available", lambda name, _device: missing.get(name))
    done = tune(*DIGITS, "--output", "best", "--backend", "trt,openvino")
    assert done.exit_code == 3
    assert "none of trt, openvino works here: no GPU; openvino is not installed" in done.stderr
    assert "; use another machine; pip install openvino; here, --backend can be ort" in done.stderr
    assert "torch" not in done.stderr  # which runs no artifact
    monkeypatch.setattr(space, "available_runtimes", lambda _device: ("torch",))
    with pytest.raises(MissingRequirement, match="no runtime here runs an artifact"):
        tune_artifact("digits", folder / "best")


def test_what_is_left_out_for_want_of_images_is_said_at_once(folder: Path) -> None:
    said = {}
    for precision in ("int8", "fp32"):
        done = tune(
            *(*SEEDED, "--output", str(folder / "new"), "--backend", "ort-cpu"),
            *("--precision", precision, "--budget", "0.001s", "--force"),
        )
        said[precision] = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    left = "note: int8 and fp8 are left out: name images to calibrate them on in --calibration"
    accuracy = "note: accuracy is not measured: name labeled images in --accuracy"
    assert said == {"int8": [left, accuracy], "fp32": [accuracy]}


# ---- real sessions, planted confirmations


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> FakeConfirmer:
    """Few candidates, short visits, and no further processes."""
    confirmer = FakeConfirmer()
    monkeypatch.setattr(api, "FreshProcesses", lambda *_: confirmer)
    monkeypatch.setattr(space, "merges_of", lambda *_: (None,))
    monkeypatch.setattr("resnext.timing.clock.SETTLE_S", 0.0)
    monkeypatch.setattr("resnext_bench.tune.racing._MOST_VISIT_S", 0.002)
    monkeypatch.setattr("resnext_bench.tune.racing._LEAST_VISIT_S", 0.001)
    return confirmer


FEW = (
    *(*DIGITS, "--backend", "ort-cpu", "--precision", "fp32", "--batch", "1,2"),
    *("--goal", "throughput", "--streams", "1", "--accuracy-images", "50"),
)


def test_a_budget_that_is_too_short_for_one_candidate_says_so(
    folder: Path, quick: FakeConfirmer
) -> None:
    del quick
    done = tune(*FEW, "--output", "best", "--budget", "0.001s")
    assert done.exit_code == 1
    assert "the budget of 0.001 s is too short for one candidate" in done.stderr
    assert "give a --budget of at least 60 s, and --resume" in done.stderr
    assert not (folder / "best").exists()


def test_when_no_candidate_passes_the_nearest_misses_are_named(
    folder: Path, quick: FakeConfirmer, monkeypatch: pytest.MonkeyPatch
) -> None:
    del quick
    plans = {"ort-cpu fp32, batch 1": Plan(1.0, size=250_000), "ort-cpu fp32, batch 2": Plan(1.0)}
    monkeypatch.setattr(api, "Bench", lambda request, *_: FakeWorkshop(Machine(0), plans, request))
    done = tune(*FEW, "--output", "best", "--gate", "size<=100kB")
    assert done.exit_code == 1
    assert not (folder / "best").exists()
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "no candidate of 2 passed" in line  # the baseline is none
    assert "the nearest: ort-cpu fp32, batch 1: size" in line
    assert read_tuned(state_path(folder / "best")).complete


def test_a_search_without_options_goes_through_every_runtime(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Missing(FakeWorkshop):
        def plan(self, _point: Point) -> Plan:
            return Plan(1.0, agreement=0.5)

    monkeypatch.setattr(space, "available", lambda *_: None)
    monkeypatch.setattr(space, "available_runtimes", lambda _device: tuple(RUNTIMES))
    monkeypatch.setattr(api, "Bench", lambda request, *_: Missing(Machine(0), {}, request))
    done = tune(*DIGITS, "--output", "best", "--accuracy-images", "20")
    assert done.exit_code == 1, done.output
    assert " passed; the nearest: " in done.stderr
    candidates = read_tuned(state_path(folder / "best")).candidates
    assert {one.backend for one in candidates} == {"torch", *ARTIFACT_RUNTIMES}


@pytest.mark.parametrize("arguments", [(), ("--force",), ("--resume",)])
def test_two_searches_for_one_output_do_not_run_at_once(
    folder: Path, arguments: tuple[str, ...]
) -> None:
    before = sorted(folder.rglob("*"))
    with only_search(Path("cut")):
        done = tune(*DIGITS, "--output", "cut", *arguments)
    assert done.exit_code == 2
    assert "another search for cut runs; wait for it, or choose another --output" in done.stderr
    assert sorted(folder.rglob("*")) == before
    (folder / ".cut.tune.json.lock").touch()  # of a process that was killed
    assert "another search" not in tune(*DIGITS, "--output", "cut").stderr
    assert sorted(folder.rglob("*")) == before


def test_a_search_whose_artifact_did_not_fit_on_the_disk_is_written_by_resume(
    folder: Path, quick: FakeConfirmer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    few = (*FEW, "--batch", "1", "--output", "best")
    with monkeypatch.context() as patched:
        patched.setattr(Artifact, "write_to", full)
        done = tune(*few)
    assert done.exit_code == 3, done.output
    assert "the disk has no room for best" in done.stderr
    assert "free some space, or choose another --output" in done.stderr
    found, asked = read_tuned(state_path(folder / "best")), list(quick.asked)
    assert found.complete
    done = tune(*few, "--resume")
    assert done.exit_code == 0, done.output
    written = read_tuned(folder / "best" / "tune.json")
    assert written.model_dump_json() == found.model_dump_json()
    assert (
        read_artifact(folder / "best").manifest.file_sha256 == found.candidates[0].artifact_sha256
    )
    assert quick.asked == asked
    assert not state_path(folder / "best").exists()


def test_ctrl_c_keeps_the_leader_and_resume_ends_with_the_artifact_that_was_measured(
    folder: Path, quick: FakeConfirmer, monkeypatch: pytest.MonkeyPatch
) -> None:

    def interrupted(record: Any, output: Path) -> None:
        keep(record, output)
        if any(len(one.rounds_ns) == 2 for one in record.candidates) and not record.ended:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(api, "keep", interrupted)
    done = tune(*FEW, "--output", "best")
    assert done.exit_code == 130, done.output
    assert "--resume goes on" in done.stderr
    part = read_tuned(folder / "best" / "tune.json")
    assert (part.complete, part.ended) == (False, "interrupted")
    assert part.pick is not None
    assert read_artifact(folder / "best").manifest.file_sha256 == part.candidates[0].artifact_sha256
    assert state_path(folder / "best").exists()
    monkeypatch.setattr(api, "keep", keep)

    for arguments, message in (
        (("--seed", "1"), "--seed was 0, and is 1; search anew with --force"),
        (("--batch", "1,4"), "it has no candidate torch fp32, batch 4"),
        (("--batch", "1"), "which this request has not"),
        (("--gate", "size<=1MB"), "--gate was agreement>=0.98, top1-loss<=1%, and is"),
    ):
        other = tune(*FEW, "--output", "best", "--resume", *arguments)
        assert other.exit_code == 4
        assert message in other.stderr

    done = tune(*FEW, "--output", "best", "--resume", "--json", "search.json", "--budget", "1m")
    assert done.exit_code == 0, done.output
    assert not state_path(folder / "best").exists()
    tuned, artifact = read_tuned(folder / "best" / "tune.json"), read_artifact(folder / "best")
    assert (tuned.complete, tuned.created) == (True, part.created)
    for one in part.candidates:
        after = next(each for each in tuned.candidates if each.name == one.name)
        assert after.rounds_ns.items() >= one.rounds_ns.items()
    names = sorted(path.name for path in (folder / "best").iterdir())
    assert names == ["manifest.json", "model.onnx", "tune.html", "tune.json"]
    pick = tuned.candidates[0]
    assert (tuned.pick, pick.outcome) == (pick.name, "picked")
    assert pick.artifact_sha256 == artifact.manifest.file_sha256
    assert tuned.artifact == artifact
    assert pick.parity is not None
    assert pick.parity.passed
    assert pick.accuracy is not None
    assert pick.accuracy.images == 50
    assert [(gate.name, gate.passed) for gate in pick.gates] == [
        ("agreement", True),
        ("top1-loss", True),
    ]
    assert artifact.manifest.request is not None
    assert artifact.manifest.request["weights"] == "digits"
    assert json.loads((folder / "search.json").read_text()) == json.loads(tuned.model_dump_json())
    assert tuned.command[:4] == ("resnext-export", "tune", *DIGITS)
    assert done.stdout.startswith("PICKED: ")
    assert "leader ort-cpu fp32, batch" in done.stderr
    assert quick.asked[-1] == (pick.name, tuned.confirmed[-1].other)
    # the folder is an artifact like any other: it is replaced only with `force`
    assert tune(*FEW, "--output", "best").exit_code == 2


@pytest.fixture(scope="module")
def digits() -> Weights:
    return load_weights("digits")


@pytest.mark.exhaustive
def test_a_whole_search_in_fresh_processes(folder: Path, digits: Weights) -> None:
    tuned = tune_artifact(digits, folder / "best", goal="throughput", budget=60)
    assert tuned.pick is not None
    assert tuned.complete
    assert {one.other for one in tuned.confirmed} <= {one.name for one in tuned.candidates}
    assert (
        read_artifact(folder / "best").manifest.file_sha256 == tuned.candidates[0].artifact_sha256
    )
    words = tuned.candidates[0].export_command
    done = CliRunner().invoke(main, list(words[1:]))
    assert done.exit_code == 0, done.output
