"""The import contracts in setup.cfg hold, and each one catches what it is there for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("resnext", "export/resnext_export", "benchmarks/resnext_bench")


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of the tree at ``root``."""
    paths = [*map(str, (root, root / "export", root / "benchmarks")), os.environ.get("PYTHONPATH")]
    call = (
        "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    )
    return subprocess.run(
        [sys.executable, "-c", call],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the sources, to plant faults in."""
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package,
            tmp_path / package,
            ignore=lambda folder, names: [
                name
                for name in names
                if not name.endswith(".py") and not (Path(folder) / name).is_dir()
            ],
        )
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    return tmp_path


def test_the_contracts_hold() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "statement", "broken"),
    [
        (
            "resnext/network/planted.py",
            "from resnext_export import request",
            "The benchmark is above the exporter, the exporter above the core",
        ),
        (
            "export/resnext_export/passes/planted.py",
            "import resnext_bench.run",
            "The benchmark is above the exporter, the exporter above the core",
        ),
        (
            "resnext/network/planted.py",
            "from resnext.weights.spec import load_weights",
            "Rooms of the core are layered",
        ),
        (
            "resnext/artifact/planted.py",
            "def late():\n    from resnext.runtimes.registry import open_session",
            "Rooms of the core are layered",
        ),
        ("resnext/planted/__init__.py", "", "Rooms of the core are layered"),
        (
            "resnext/weights/conditioned.py",
            "from .spec import Weights",
            "No circles, in any folder",
        ),
        ("resnext/images/planted.py", "import click", "Only commands, progress"),
        (
            "benchmarks/resnext_bench/planted.py",
            "import rich",
            "Only commands, progress",
        ),
        ("resnext/artifact/planted.py", "import torch", "PyTorch stays in its own folders"),
        (
            "resnext/artifact/planted.py",
            "from onnxruntime import InferenceSession",
            "ONNX Runtime stays in its own folder",
        ),
    ],
)
def test_a_planted_import_breaks_its_contract(
    tree: Path, module: str, statement: str, broken: str
) -> None:
    path = tree / module
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(f"\n{statement}\n")
    done = lint(tree)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if " BROKEN" in line]
    assert any(line.startswith(broken) for line in lines), done.stdout
