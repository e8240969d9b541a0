"""The GitHub Action and the pre-commit hooks: their commands exist, and do what they say."""

from __future__ import annotations

import configparser
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

import junit_schema
from resnext.cli.parity import main
from resnext.verify.batches.laws import Integrity
from resnext.verify.parity import Parity

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[2]
EARLIER = ROOT / "tests" / "core" / "data" / "earlier_artifacts"
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
HOOKS = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
STEPS = ACTION["runs"]["steps"]


def commands() -> set[str]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string((ROOT / "setup.cfg").read_text())
    lines = parser["options.entry_points"]["console_scripts"].strip().splitlines()
    return {line.partition("=")[0].strip() for line in lines}


def flags() -> set[str]:
    options = [option for option in main.params if isinstance(option, click.Option)]
    return {name for option in options for name in option.opts}


def test_the_action_is_composite_and_complete() -> None:
    assert ACTION["runs"]["using"] == "composite"
    assert ACTION["name"]
    assert ACTION["description"]
    for given in ACTION["inputs"].values():
        assert given["description"]
        assert given.get("required") or "default" in given
    for step in STEPS:
        assert step["name"]
        assert step["shell"] == "bash"  # which a composite action must say
        # An input in the script itself would be code from whoever names it.
        assert "${{" not in step["run"]


def test_every_input_is_used_and_every_used_input_is_declared() -> None:
    used = {
        value.removeprefix("${{ inputs.").removesuffix(" }}")
        for step in STEPS
        for value in step["env"].values()
    }
    assert used == set(ACTION["inputs"])


def test_the_action_installs_this_folder() -> None:
    install = STEPS[0]["run"].replace("$GITHUB_ACTION_PATH", str(ROOT))
    assert (ROOT / "constraints.txt").is_file()
    assert shlex.split(install)[:5] == ["python", "-m", "pip", "install", "-c"]
    assert str(ROOT / "constraints.txt") in install


def run_step(step: dict[str, Any], folder: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """Run a step as the runner does, with its inputs in the environment."""
    env = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    for name, value in step["env"].items():
        key = value.removeprefix("${{ inputs.").removesuffix(" }}")
        env[name] = inputs.get(key, ACTION["inputs"][key].get("default", ""))
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        env={**os.environ, **env},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.exhaustive
def test_the_steps_of_the_action_check_an_artifact(tmp_path: Path) -> None:
    inputs = {
        "artifact": str(EARLIER / "onnx-fp32"),
        "backend": "ort-cpu",
        "weights": str(EARLIER / "tiny.safetensors"),
    }
    for step in STEPS[1:]:
        done = run_step(step, tmp_path, **inputs)
        assert done.returncode == 0, done.stderr
    assert Parity.model_validate_json((tmp_path / "parity" / "parity.json").read_text()).passed
    integrity = (tmp_path / "parity" / "integrity.json").read_text()
    assert Integrity.model_validate_json(integrity).passed
    for name in ("parity.xml", "integrity.xml"):
        assert junit_schema.problems((tmp_path / "parity" / name).read_text()) == []


def test_a_failed_check_fails_its_step(tmp_path: Path) -> None:
    for step in STEPS[1:]:
        assert run_step(step, tmp_path, artifact="none").returncode == 4


@pytest.mark.parametrize("hook", HOOKS, ids=[hook["id"] for hook in HOOKS])
def test_a_hook_runs_a_command_of_the_toolkit(hook: dict[str, Any]) -> None:
    assert {"id", "name", "description", "entry", "language", "files"} <= set(hook)
    command, *arguments = shlex.split(hook["entry"])
    assert command in commands()
    assert set(arguments) <= flags()
    assert hook["language"] == "python"
    assert hook["pass_filenames"] is False
