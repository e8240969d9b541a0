"""A package that is not installed is exit code 3 with its name; an interruption stays one, whoever
wraps it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run_without(package: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process where importing ``package`` fails as if it were not installed."""
    block = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {package!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "import importlib, sys\n"
        "main = importlib.import_module(sys.argv[1]).main\n"
        "main(sys.argv[2:])\n"
    )
    environment = {**os.environ, "RESNEXT_CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, "-c", block, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=folder, check=False
    )


@pytest.mark.parametrize(
    ("package", "pip_name", "arguments"),
    [
        ("onnx", "onnx", ["resnext_export.cli.export", "--format", "onnx", "--weights", "digits"]),
        (
            "psutil",
            "psutil",
            ["resnext_bench.cli.bench", "--backend", "torch", "--weights", "digits"],
        ),
        ("PIL", "pillow", ["resnext.cli.classify", "a.png", "--weights", "digits"]),
        ("torch", "torch", ["resnext_export.cli.export", "--format", "onnx"]),
    ],
)
def test_a_missing_package_is_named_with_the_way_to_install_it(
    package: str, pip_name: str, arguments: list[str], tmp_path: Path
) -> None:
    done = run_without(package, tmp_path, *arguments)
    assert done.returncode == 3, done.stderr
    assert f"pip install {pip_name}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_runtime_fails_its_own_rows_alone(tmp_path: Path) -> None:
    arguments = [
        "--backend",
        "torch,ort-cpu",
        "--weights",
        "digits",
        "--device",
        "cpu",
        "--duration",
        "0.05",
        "--rounds",
        "2",
        "--warmup",
        "0",
    ]
    done = run_without("onnxruntime", tmp_path, "resnext_bench.cli.bench", *arguments)
    assert done.returncode in (1, 3), (
        done.stderr
    )  # 1 if this machine was too unsteady for the other row
    assert "FAILED" in done.stdout
    assert "pip install onnxruntime" in done.stdout + done.stderr
    torch_row = next(line for line in done.stdout.splitlines() if line.startswith("torch "))
    assert "FAILED" not in torch_row


def test_an_interruption_that_a_library_wrapped_is_still_an_interruption() -> None:
    script = (
        "import click, os, signal\n"
        "from resnext.cli.app import guarded\n"
        "@click.command()\n"
        "@guarded\n"
        "def main():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        import time; time.sleep(5)\n"
        "    except KeyboardInterrupt as exc:\n"
        "        raise RuntimeError('export failed') from exc\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 130
    assert done.stderr == "interrupted; nothing half-written was left\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--duration", "nan"],
        ["--duration", "inf"],
        ["--duration", "0"],
        ["--warmup", "inf"],
        ["--warmup", "nan"],
        ["--batch", "100000000000"],
        ["--input-size", "99999999999x8"],
        ["--input-size", "8x"],
        ["--batch", "9" * 5000],
    ],
)
def test_numbers_beyond_reason_are_usage_errors(arguments: list[str]) -> None:
    from click.testing import CliRunner

    from resnext_bench.cli.bench import main

    result = CliRunner().invoke(main, ["--backend", "torch", "--weights", "digits", *arguments])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
