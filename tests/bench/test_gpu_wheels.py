"""The script that fetches wheels for a bare GPU machine: tested versions, its Python, parts that
can be copied.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Stands for Python with pip: notes what it is asked for, and leaves a large wheel and a small
    one.
    """
    script = tmp_path / "python"
    script.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >"{tmp_path}/asked"\n'
        'while [ "$1" != --dest ]; do shift; done\n'
        'truncate -s 61M "$2/large-1.0-py3-none-any.whl"; echo small'
        ' >"$2/small-1.0-py3-none-any.whl"\n'
    )
    script.chmod(0o755)
    return script


def test_pinned_wheels_are_fetched_and_large_ones_split(python: Path, tmp_path: Path) -> None:
    folder = tmp_path / "wheels"
    folder.mkdir()
    (
        folder / "stale-0.1-py3-none-any.whl"
    ).touch()  # two versions of one package would stop the whole install
    command = [str(ROOT / "benchmarks" / "gpu_wheels.sh"), str(folder), "onnxruntime-gpu"]
    subprocess.run(
        command, env={**os.environ, "PYTHON": str(python)}, check=True, capture_output=True
    )
    asked = (tmp_path / "asked").read_text().split()
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    for name in (
        "pydantic",
        "pydantic_core",
        "platformdirs",
        "typing_extensions",
        "onnxruntime-gpu",
    ):
        pin = next(line for line in pins if line.startswith(f"{name}==")).partition(";")[0]
        assert pin in asked
    assert ("--python-version", "3.12") in itertools.pairwise(asked)
    assert "--no-deps" in asked
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "large-1.0-py3-none-any.whl.part-aa",
        "large-1.0-py3-none-any.whl.part-ab",
        "small-1.0-py3-none-any.whl",
    ]
    assert sum(path.stat().st_size for path in folder.glob("large*")) == 61 * 2**20
