"""The workflow for a user's repository: GitHub's schema, what it may do, its commands, and its
steps, run in order over a base branch and a pull request.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import pytest
from click.testing import CliRunner

import junit_schema
from commands import COMMANDS

yaml = pytest.importorskip("yaml")
check_jsonschema = pytest.importorskip("check_jsonschema.cli", reason="needs Python 3.11").main
ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs" / "ci" / "resnext.yml"
TEXT = FILE.read_text()
WORKFLOW: dict[Any, Any] = yaml.safe_load(TEXT)
(JOB,) = WORKFLOW["jobs"].values()
STEPS: list[dict[str, Any]] = JOB["steps"]
TINY = ROOT / "tests" / "core" / "data" / "earlier_artifacts" / "tiny.safetensors"
MAINS = {
    "resnext-bench": "resnext_bench.cli.bench",
    "resnext-export": "resnext_export.cli.export",
    "resnext-parity": "resnext.cli.parity",
}


# ---- GitHub's schema


def schema_complaints(text: str, folder: Path) -> str:
    """What GitHub's schema says against a workflow; empty if nothing."""
    (folder / "workflow.yml").write_text(text)
    arguments = ["--builtin-schema", "vendor.github-workflows", "--verbose"]
    done = CliRunner().invoke(check_jsonschema, [*arguments, str(folder / "workflow.yml")])
    return "" if done.exit_code == 0 else done.output


def test_the_workflow_keeps_to_the_schema_of_github(tmp_path: Path) -> None:
    assert schema_complaints(TEXT, tmp_path) == ""


@pytest.mark.parametrize(
    ("right", "wrong", "word"),
    [
        ("timeout-minutes:", "timeout-minuts:", "timeout-minuts"),
        ("  contents: read", "  content: read", "content"),
        ("contents: read", "contents: all", "all"),
        ("on: pull_request ", "on: pull_requests ", "pull_requests"),
        ("  cancel-in-progress: true", "  cancel: true", "cancel"),
        ("continue-on-error: true", "continue-on-error: maybe", "maybe"),
        ("    runs-on: ubuntu-24.04\n", "", "runs-on"),
        ("          if-no-files-found", "        if-no-files-found", "if-no-files-found"),
    ],
)
def test_the_schema_sees_a_planted_fault(right: str, wrong: str, word: str, tmp_path: Path) -> None:
    assert TEXT.count(right) >= 1
    assert word in schema_complaints(TEXT.replace(right, wrong, 1), tmp_path)


# ---- what it may do


def risks(text: str) -> list[str]:
    """What a stranger's pull request could use, and what could run for ever."""
    workflow = yaml.safe_load(text)
    found = []
    if workflow.get(True) != "pull_request":  # YAML 1.1 reads `on` as true
        found.append("event")
    if workflow.get("permissions") != {"contents": "read"}:
        found.append("permissions")
    if not workflow.get("concurrency", {}).get("cancel-in-progress"):
        found.append("concurrency")
    for job in workflow["jobs"].values():
        if job.get("timeout-minutes", 360) > 60:
            found.append("timeout")
        if "permissions" in job:
            found.append("permissions of a job")
        for step in job["steps"]:
            if "${{" in step.get("run", ""):
                found.append("an expression in a script, where it would be code")
            if "checkout@" in step.get("uses", "") and step["with"]["persist-credentials"]:
                found.append("credentials")
    pinned = re.findall(r"uses: \S+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", text, re.MULTILINE)
    if len(pinned) != text.count("uses:"):
        found.append("an action that is not pinned")
    allowed = r"github\.event\.pull_request\.(number|base\.sha)|!cancelled\(\).*"
    for expression in re.findall(r"\$\{\{ (.*?) \}\}", text):
        if not re.fullmatch(allowed, expression):
            found.append(f"{expression}, which a stranger may have written")
    return found


def test_a_pull_request_can_do_no_harm() -> None:
    assert risks(TEXT) == []


@pytest.mark.parametrize(
    ("right", "wrong", "risk"),
    [
        ("on: pull_request ", "on: pull_request_target ", "event"),
        ("  contents: read", "  contents: write", "permissions"),
        ("  cancel-in-progress: true", "  cancel-in-progress: false", "concurrency"),
        ("    timeout-minutes: 45\n", "", "timeout"),
        (
            "    timeout-minutes: 45\n",
            "    timeout-minutes: 45\n    permissions: write-all\n",
            "job",
        ),
        ("--batch-integrity", "${{ github.head_ref }}", "code"),
        ("pull_request.base.sha", "pull_request.head.ref", "stranger"),
        ("persist-credentials: false", "persist-credentials: true", "credentials"),
        ("@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "@v7", "pinned"),
    ],
)
def test_a_planted_risk_is_seen(right: str, wrong: str, risk: str) -> None:
    assert right in TEXT
    assert any(risk in each for each in risks(TEXT.replace(right, wrong, 1)))


def test_every_check_can_fail_the_pull_request() -> None:
    tolerated = [step["name"] for step in STEPS if step.get("continue-on-error")]
    assert tolerated == ["Page"]
    assert not any("||" in step.get("run", "") for step in STEPS)


def test_a_user_changes_three_lines() -> None:
    yours = re.findall(r"^  (\w+): .*# yours", TEXT, re.MULTILINE)
    assert yours == [*WORKFLOW["env"]]
    assert len(yours) == 3
    assert len(TEXT.splitlines()) < 120


# ---- its commands


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of the toolkit in the steps."""
    env = {name: str(value) for name, value in WORKFLOW["env"].items()}
    for step in yaml.safe_load(text)["jobs"]["resnext"]["steps"]:
        for line in step.get("run", "").replace("\\\n", " ").splitlines():
            words = shlex.split(re.sub(r"\$(\w+)", lambda match: env.get(match[1], "x"), line))
            if words and words[0].startswith("resnext-"):
                yield words


def parse_all(found: list[list[str]]) -> None:
    """Parse the options of each command, and run nothing."""
    for name, *words in found:
        command = COMMANDS[MAINS[name]]
        if isinstance(command, click.Group) and not words[0].startswith("-"):
            _, named, words = command.resolve_command(click.Context(command), words)
            assert named is not None
            command = named
        command.make_context(name, words)


def test_every_command_exists_and_takes_its_options() -> None:
    found = list(commands(TEXT))
    assert [words[0].removeprefix("resnext-") for words in found] == [
        *("export", "parity", "parity", "export", "bench", "bench")
    ]
    parse_all(found)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("--junit", "--junt"), ("--html", "--page"), ("--margin 5%", "--margin five"), ("ab ", "ob ")],
)
def test_a_planted_wrong_option_is_seen(right: str, wrong: str) -> None:
    found = list(commands(TEXT.replace(f" {right}", f" {wrong}")))
    assert found != list(commands(TEXT))
    with pytest.raises(SystemExit):
        parse_all(found)


# ---- its steps, run


@dataclass
class Runner:
    """Runs the steps as GitHub's runner does, with stand-ins for the actions.

    Attributes:
        folder: the workspace.
        pull_request: commits by ``base`` and ``head``, in the repository ``origin``.
        origin: the user's repository.
        env: of every step.
        outcomes: ``success``, ``failure`` or ``skipped``, by the step's name.
        uploaded: names of the files that were kept.
    """

    folder: Path
    origin: Path
    pull_request: dict[str, str]
    env: dict[str, str]
    outcomes: dict[str, str] = field(default_factory=dict)
    uploaded: set[str] = field(default_factory=set)

    def run(self, text: str) -> str:
        """Run the job of a workflow; its conclusion."""
        workflow = yaml.safe_load(text)
        ids: dict[str, str] = {}
        conclusion = "success"
        for step in workflow["jobs"]["resnext"]["steps"]:
            outcome = "skipped"
            if self._wanted(step.get("if", "success()"), conclusion, ids):
                outcome = "success" if self._step(step, workflow["env"]) else "failure"
            self.outcomes[step["name"]] = ids[step.get("id", "")] = outcome
            if outcome == "failure" and not step.get("continue-on-error"):
                conclusion = "failure"
        return conclusion

    def _wanted(self, condition: str, conclusion: str, ids: dict[str, str]) -> bool:
        if condition == "success()":
            return conclusion == "success"
        match = re.fullmatch(
            r"\$\{\{ !cancelled\(\) && steps\.(\w+)\.outcome == '(\w+)' \}\}", condition
        )
        assert match, condition
        return ids[match[1]] == match[2]

    def _step(self, step: dict[str, Any], env: dict[str, Any]) -> bool:
        if action := step.get("uses"):
            name = action.partition("@")[0].removeprefix("actions/")
            stand_ins: dict[str, Callable[..., bool]] = {
                "checkout": self._checkout,
                "setup-python": lambda **_: True,
                "upload-artifact": self._upload,
            }
            inputs = {key.replace("-", "_"): value for key, value in step["with"].items()}
            return stand_ins[name](**inputs)
        script = self.folder.parent / "script.sh"
        script.write_text(step["run"])
        done = subprocess.run(
            ["bash", "-e", str(script)],  # the runner's default shell
            env={**os.environ, **self.env, **{name: str(value) for name, value in env.items()}},
            cwd=self.folder,
            check=False,  # its output is shown if the test fails
        )
        return done.returncode == 0

    def _checkout(self, path: str, ref: str = "", submodules: bool = False, **_: object) -> bool:
        commit = self.pull_request["head"]
        if ref:
            assert ref == "${{ github.event.pull_request.base.sha }}"
            commit = self.pull_request["base"]
        git(self.folder, "clone", "--quiet", str(self.origin), path)
        git(self.folder / path, "checkout", "--quiet", commit)
        if submodules:
            (self.folder / path / "resnext-toolkit").symlink_to(ROOT)
        return True

    def _upload(self, path: str, **_: object) -> bool:
        self.uploaded = {each.name for each in (self.folder / path).iterdir()}
        return bool(self.uploaded)

    def report(self, name: str) -> dict[str, str]:
        """The outcomes of a JUnit file."""
        text = (self.folder / "report" / name).read_text()
        assert junit_schema.problems(text) == []
        cases = ElementTree.fromstring(text).iter("testcase")
        return {case.get("name", ""): case[0].tag if len(case) else "passed" for case in cases}


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(
        ["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


#: Imported by every Python of the runner but the arms': other tests use the processors, too, and
#: no round is undisturbed then.
QUIET = """
import importlib.util, sys

class Quiet:
    def find_spec(self, name, path=None, target=None):
        if name != "resnext.machine.load":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            module.Load.disturbances = lambda self, threads: ()
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Quiet())
"""


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    """A runner, and a repository with a checkpoint in base and pull request."""
    origin, workspace, tools = (tmp_path / name for name in ("origin", "workspace", "tools"))
    for folder in (origin / "weights", workspace, tools):
        folder.mkdir(parents=True)
    git(origin, "init", "--quiet")
    shutil.copy(TINY, origin / "weights" / "model.safetensors")
    git(origin, "add", ".")
    git(origin, "commit", "--quiet", "-m", "base")
    base = git(origin, "rev-parse", "HEAD")
    (tools / "sitecustomize.py").write_text(QUIET)
    # pip installs nothing here; what it would install must be there.
    (tools / "python").write_text(
        '#!/bin/sh\n[ "$1 $2 $3 $4" = "-m pip install -c" ] || exit 9\n'
        'test -f "$5" && test -f "${6%[*}/setup.cfg"\n'
    )
    (tools / "python").chmod(0o755)
    bin_folder = str(Path(sys.executable).parent)
    python_path = [str(tools), *(str(ROOT / name) for name in (".", "export", "benchmarks"))]
    env = {
        "PATH": os.pathsep.join([str(tools), bin_folder, os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(python_path),
        "RESNEXT_CACHE_DIR": str(tmp_path / "cache"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        "OMP_NUM_THREADS": "1",
    }
    return Runner(workspace, origin, {"base": base, "head": base}, env)


def commit(runner: Runner, data: bytes) -> None:
    """A pull request with another checkpoint."""
    (runner.origin / "weights" / "model.safetensors").write_bytes(data)
    git(runner.origin, "commit", "--quiet", "--all", "-m", "pull request")
    runner.pull_request["head"] = git(runner.origin, "rev-parse", "HEAD")


def retrained() -> bytes:
    """The same network with a scaled classifier."""
    import numpy as np
    from safetensors import safe_open
    from safetensors.numpy import save

    with safe_open(TINY, "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        metadata = file.metadata()
    tensors["fc.weight"] = tensors["fc.weight"] * np.float32(1.25)
    return save(tensors, metadata)


#: Short runs: eight rounds are the least that give a verdict.
SHORT = TEXT.replace("--max-seconds 300", "--max-seconds 60 --duration 1 --warmup 0 --rounds 8")
REPORTS = {
    *("parity.json", "parity.xml", "integrity.json", "integrity.xml"),
    *("ab.json", "ab.xml", "ab.md", "run.json", "run.md", "report.html"),
}


@pytest.mark.exhaustive
def test_a_good_pull_request_passes_with_page_and_reports(runner: Runner) -> None:
    commit(runner, retrained())
    assert runner.run(SHORT) == "success", runner.outcomes
    assert {each for name, each in runner.outcomes.items() if name != "Page"} == {"success"}
    assert runner.uploaded == REPORTS
    assert runner.report("parity.xml")["parity"] == "passed"
    assert {*runner.report("integrity.xml").values()} == {"passed"}
    assert [*runner.report("ab.xml").values()][:2] == ["passed", "passed"]
    summary = Path(runner.env["GITHUB_STEP_SUMMARY"]).read_text()
    assert ": B against A, custom model, batch 8" in summary
    assert "A and B have different weights" in summary
    page = (runner.folder / "report" / "report.html").read_text()
    assert page.startswith("<!doctype html>")


@pytest.mark.exhaustive
def test_a_slower_pull_request_fails_the_comparison_alone(runner: Runner) -> None:
    """It stops merging groups, which takes a fifth more time."""
    text = SHORT.replace("--output artifacts/base", "--merge-groups 32 --output artifacts/base")
    assert runner.run(text) == "failure"
    assert runner.outcomes.pop("Speed against the base branch") == "failure"
    del runner.outcomes["Page"]
    assert {*runner.outcomes.values()} == {"success"}
    assert [*runner.report("ab.xml").values()] == ["passed", "passed", "failure"]
    assert "# SLOWER: B against A" in Path(runner.env["GITHUB_STEP_SUMMARY"]).read_text()
    assert runner.uploaded == REPORTS


@pytest.mark.exhaustive
def test_a_pull_request_that_breaks_parity_fails_there(runner: Runner) -> None:
    """One weight of the exported classifier is off by 1, and the manifest is sealed again."""
    broken = SHORT.replace(
        "--output artifacts/head\n", "--output artifacts/head && break-it artifacts/head\n"
    )
    tool = Path(runner.env["PYTHONPATH"].partition(os.pathsep)[0]) / "break-it"
    tool.write_text(f"#!{sys.executable}\n{BREAK}")
    tool.chmod(0o755)
    assert runner.run(broken) == "failure"
    assert runner.outcomes["Export"] == "success"
    assert runner.outcomes["Parity"] == "failure"
    assert runner.outcomes["Batch integrity"] == "success"
    assert runner.outcomes["Keep the page and the reports"] == "success"
    assert "failure" in runner.report("parity.xml").values()
    assert {"parity.xml", "integrity.xml"} <= runner.uploaded


#: Changes a weight, and seals the manifest again.
BREAK = """
import hashlib, json, sys
from pathlib import Path
import numpy as np, onnx
from onnx import numpy_helper

folder = Path(sys.argv[1])
model = onnx.load(folder / "model.onnx")
weights = next(each for each in model.graph.initializer if each.name == "fc.weight")
array = numpy_helper.to_array(weights).copy()
array.flat[0] += 1
weights.CopyFrom(numpy_helper.from_array(array, weights.name))
onnx.save(model, folder / "model.onnx")
data = (folder / "model.onnx").read_bytes()
manifest = json.loads((folder / "manifest.json").read_text())
manifest["file_sha256"] = hashlib.sha256(data).hexdigest()
manifest["file_size_bytes"] = len(data)
(folder / "manifest.json").write_text(json.dumps(manifest))
"""


@pytest.mark.exhaustive
def test_a_checkpoint_that_cannot_be_exported_fails_the_export_and_nothing_else_runs(
    runner: Runner,
) -> None:
    commit(runner, TINY.read_bytes()[:2000])
    assert runner.run(SHORT) == "failure"
    assert [name for name, outcome in runner.outcomes.items() if outcome == "failure"] == ["Export"]
    after = [*runner.outcomes][[*runner.outcomes].index("Export") + 1 :]
    assert {runner.outcomes[name] for name in after} == {"skipped"}


@pytest.mark.exhaustive
def test_the_first_checkpoint_has_nothing_to_be_compared_with(runner: Runner) -> None:
    git(runner.origin, "rm", "--quiet", "weights/model.safetensors")
    git(runner.origin, "commit", "--quiet", "-m", "none yet")
    runner.pull_request["base"] = git(runner.origin, "rev-parse", "HEAD")
    assert runner.run(SHORT) == "success"
    summary = Path(runner.env["GITHUB_STEP_SUMMARY"]).read_text()
    assert summary.startswith("The base branch has no checkpoint to compare with.")
    assert runner.uploaded == {name for name in REPORTS if not name.startswith("ab")}
