"""``resnext-export doctor``: lines, exit codes, JSON; and each runtime really run."""

from __future__ import annotations

import configparser
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from resnext.artifact.files import Artifact
from resnext.runtimes.registry import RUNTIMES
from resnext.verify.eager import reference_logits
from resnext_export.cli.export import main
from resnext_export.doctor import checkup, requirements, running
from resnext_export.doctor.checkup import Check
from resnext_export.doctor.facts import Facts
from resnext_export.doctor.observation import Observation, absent, ok, problem, warning
from resnext_export.doctor.tested import TESTED

ROOT = Path(__file__).parents[3]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command with checks that give these lines."""

    def run(*lines: Observation, arguments: tuple[str, ...] = ()) -> Result:
        def check(_: Facts) -> Iterator[Observation]:
            yield from lines

        monkeypatch.setattr(checkup, "CHECKS", {"planted": Check("Area", check)})
        return CliRunner().invoke(main, ["doctor", *arguments])

    return run


GOOD = (
    ok("fine"),
    absent("no-gpu", "no GPU", "start the container with `gpus` all"),
    warning("slow", "slow", "buy another"),
)


def test_what_is_absent_or_slow_is_no_fault(run: Callable[..., Result]) -> None:
    done = run(*GOOD)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "Area",
        "  ok        planted        fine",
        "  not here  planted        no GPU",
        "                           -> start the container with --gpus all",
        "  warning   planted        slow",
        "                           -> buy another",
        "",
        "1 ok, 1 not here, 1 warning, 0 problem",
    ]


def test_what_cannot_work_is_exit_3_with_the_first_one(run: Callable[..., Result]) -> None:
    done = run(*GOOD, problem("x", "broken\x1b[31m", "mend it"), problem("y", "other"))
    assert done.exit_code == 3
    assert "  problem   planted        broken\\x1b[31m\n" in done.stdout
    assert done.stderr.splitlines()[-1] == (
        "error: not everything that is installed works: broken\\x1b[31m; mend it"
    )


def test_json_has_every_line(run: Callable[..., Result], tmp_path: Path) -> None:
    done = run(*GOOD, problem("x", "broken", "use `device` cpu"), arguments=("--json", "-"))
    assert done.exit_code == 3
    facts = json.loads(done.stdout)
    assert (facts["works"], len(facts["lines"])) == (False, 4)
    assert facts["lines"][3] == {
        "area": "Area",
        "check": "planted",
        "status": "problem",
        "code": "x",
        "message": "broken",
        "hint": "use --device cpu",
    }
    done = run(*GOOD, arguments=("--json", str(tmp_path / "d.json")))
    assert json.loads((tmp_path / "d.json").read_text())["works"] is True
    assert "1 ok" in done.stdout


def test_a_report_that_cannot_be_written_is_said_before_the_work(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    done = run(problem("x", "never seen"), arguments=("--json", str(tmp_path / "file" / "d.json")))
    assert done.exit_code == 3
    assert "never seen" not in done.output


def test_the_tested_versions_are_those_of_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if line in TESTED] == list(TESTED)


def test_every_requirement_has_a_tested_version_and_every_extra_a_purpose() -> None:
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    assert {*requirements.EXTRAS, "docs", "test", "fuzz", "dev"} == set(extras)
    lines = setup["options"]["install_requires"].strip().splitlines()
    for extra in requirements.EXTRAS:
        lines += [
            f'{line} ; extra == "{extra}"'
            for line in extras[extra].strip().splitlines()
            if ";" not in line and not line.startswith("#")
        ]
    needed = requirements.needed(lines)
    assert len(needed) > 20
    assert [each for each in needed if requirements.tested_version(each.name) is None] == []


# ---- runtimes, run


@pytest.fixture
def bench(digits_artifact: Artifact, tmp_path: Path) -> running._Bench:
    made = running._Bench(tmp_path)
    made._made["onnx"] = digits_artifact
    return made


@pytest.mark.parametrize("name", ["torch", "ort-cpu", "openvino", "onnx-reference"])
def test_a_runtime_is_judged_by_its_logits(name: str, bench: running._Bench) -> None:
    answer = bench.run(name)
    assert answer["max_error"] < 1e-4
    assert json.loads(json.dumps(answer)) == answer


def test_wrong_logits_are_a_problem(bench: running._Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real = reference_logits
    monkeypatch.setattr(running, "reference_logits", lambda *given: real(*given) * 1.001)
    assert bench.run("ort-cpu")["error"].startswith("wrong logits: ")


def test_a_reference_that_is_wrong_itself_is_a_problem(
    bench: running._Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "reference_logits", lambda *_: np.zeros((10, 10)))
    assert "eager PyTorch does not recognize" in bench.run("torch")["error"]


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (OSError("libcudnn.so.9: cannot open shared object file"), "pip install nvidia-cudnn-cu13"),
        (RuntimeError("something\nelse"), ""),
    ],
)
def test_a_runtime_that_raises_is_one_line(
    error: Exception, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(running._Bench, "run", fails)
    [answer] = running.answers(["ort-cpu"])
    assert answer["hint"] == hint
    assert "\n" not in answer["error"]


@pytest.mark.exhaustive
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch-compile and pt2 need g++")
def test_everything_that_is_installed_here_works() -> None:
    done = CliRunner().invoke(main, ["doctor", "--json", "-"])
    facts = json.loads(done.stdout)
    assert [line for line in facts["lines"] if line["status"] == "problem"] == []
    assert done.exit_code == 0
    assert len([line for line in facts["lines"] if line["check"] == "runtimes"]) == len(RUNTIMES)
