"""The documented SLURM script and Kubernetes Job run one group for each index."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from resnext_bench.cli.bench import main
from resnext_bench.fleet.merged import merge
from resnext_bench.fleet.results import Results

ROOT = Path(__file__).parents[3]
SCRIPT, JOB = (
    ROOT / "docs" / "cluster" / "slurm.sh",
    ROOT / "docs" / "cluster" / "kubernetes-job.yaml",
)
GUIDE = ROOT / "docs" / "guides" / "many-machines.md"
VARIABLES = {"slurm": "SLURM_ARRAY_TASK_ID", "kubernetes": "JOB_COMPLETION_INDEX"}


def job() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    loaded: dict[str, Any] = yaml.safe_load(JOB.read_text(encoding="utf-8"))
    return loaded


def command(kind: str, folder: Path) -> list[str]:
    """What the scheduler runs, with the plan in ``folder``."""
    if kind == "slurm":
        return ["sh", str(SCRIPT), str(folder / "plan.json"), str(folder / "results")]
    words: list[str] = job()["spec"]["template"]["spec"]["containers"][0]["command"]
    return [word.replace("/plan/", f"{folder}/") for word in words]


def installed(folder: Path, text: str) -> dict[str, str]:
    """An environment whose ``resnext-bench`` is the script ``text``."""
    (folder / "bin").mkdir()
    program = folder / "bin" / "resnext-bench"
    program.write_text(text)
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.parametrize("kind", VARIABLES)
def test_a_task_runs_the_group_of_its_index(kind: str, tmp_path: Path) -> None:
    environment = installed(tmp_path, '#!/bin/sh\nfor word; do echo "$word"; done\n')
    environment[VARIABLES[kind]] = "2"
    done = subprocess.run(
        command(kind, tmp_path), env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [
        *("run-cells", str(tmp_path / "plan.json"), "--index", "2"),
        *("--into", str(tmp_path / "results")),
    ]


def test_a_task_without_an_index_is_an_error(tmp_path: Path) -> None:
    environment = installed(tmp_path, "#!/bin/sh\nexit 0\n")
    environment.pop(VARIABLES["slurm"], None)
    done = subprocess.run(
        command("slurm", tmp_path), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert VARIABLES["slurm"] in done.stderr


def test_the_job_is_indexed_and_retries_one_index_at_a_time() -> None:
    whole = job()
    spec = whole["spec"]
    assert (whole["apiVersion"], whole["kind"]) == ("batch/v1", "Job")
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == 3
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # backoffLimitPerIndex needs it
    assert spec["backoffLimitPerIndex"] == 2
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted == {pod["volumes"][0]["name"]: "/plan"}
    assert container["resources"]["requests"] == container["resources"]["limits"]


def test_the_guide_shows_the_line_of_the_script() -> None:
    line = re.search(r"^exec (resnext-bench .*)$", SCRIPT.read_text(), re.MULTILINE)
    assert line is not None
    shown = line[1].replace('"$1"', "plan.json").replace('"$2"', "results/")
    assert shown in GUIDE.read_text()


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", VARIABLES)
def test_three_indices_are_a_whole_plan(kind: str, tmp_path: Path) -> None:
    words = ["--backend", "torch,ort-cpu", "--weights", "digits", "--batch", "1,2,4"]
    quick = ["--duration", "0.02", "--rounds", "1", "--warmup", "0", "--samples", "2"]
    plan = ["plan", *words, *quick, "--output", str(tmp_path / "plan.json")]
    assert CliRunner().invoke(main, plan).exit_code == 0
    environment = installed(
        tmp_path, f'#!/bin/sh\nexec {sys.executable} -m resnext_bench.cli.bench "$@"\n'
    )
    paths = [ROOT, ROOT / "export", ROOT / "benchmarks"]
    environment["PYTHONPATH"] = os.pathsep.join(map(str, paths))
    for index in range(3):
        subprocess.run(
            command(kind, tmp_path),
            env={**environment, VARIABLES[kind]: str(index)},
            check=True,
            capture_output=True,
        )
        results = Results.read(tmp_path / "results")
        assert len(merge(results).absent) == 2 - index
    (table,) = merge(results).tables
    assert [(row.backend, row.batch) for row in table.rows] == [
        (backend, batch) for batch in (1, 2, 4) for backend in ("torch", "ort-cpu")
    ]
