"""An older PyTorch than the one that exporting was seen to work with is refused before anything is
done.
"""

from __future__ import annotations

import configparser
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from exported import export_onnx
from resnext.errors import MissingRequirement
from resnext.runtimes import availability
from resnext.runtimes.pt2.toolchain import obstacle
from resnext.runtimes.pytorch.release import OLDEST, refuse_older_torch, too_old
from resnext_export.cli.export import main

ROOT = Path(__file__).parents[3]


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    obstacle.cache_clear()
    yield monkeypatch
    obstacle.cache_clear()


@pytest.mark.parametrize(
    ("version", "refused"),
    [
        ("1.13.1", True),
        ("2.9.1", True),
        ("2.10.0+cu130", True),
        ("2.11.0", False),
        ("2.11.0a0+git1234567", False),
        ("2.13.0+cpu", False),
        ("2.100.0", False),
        ("3.0.0", False),
        ("from-a-branch", False),  # nothing is known against it
    ],
)
def test_releases_are_compared_as_numbers(
    version: str, refused: bool, planted: pytest.MonkeyPatch
) -> None:
    planted.setattr(torch, "__version__", version)
    assert (too_old() is not None) == refused


@pytest.mark.parametrize("target", ["onnx", "pt2", "openvino"])
def test_an_older_pytorch_is_exit_3_before_weights_are_loaded(
    target: str, planted: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    planted.setattr(torch, "__version__", "2.10.1+cu128")
    planted.setattr("resnext_export.pipeline.load_weights", None)
    result = CliRunner().invoke(main, ["--format", target, "--output", str(tmp_path / "out")])
    assert result.exit_code == 3, result.output
    (line,) = result.stderr.splitlines()
    assert "PyTorch 2.10.1+cu128 is older than 2.11" in line
    assert "pip install 'torch>=2.11'" in line
    assert not list(tmp_path.iterdir())


def test_programs_are_refused_like_the_command(planted: pytest.MonkeyPatch, tmp_path: Path) -> None:
    planted.setattr(torch, "__version__", "2.10.1")
    with pytest.raises(MissingRequirement, match=r"older than 2\.11"):
        export_onnx(None, tmp_path / "out")  # type: ignore[arg-type]  # not looked at
    with pytest.raises(MissingRequirement, match=r"older than 2\.11"):
        refuse_older_torch()
    assert availability.available("pt2", "cpu")


def test_the_oldest_is_the_one_that_is_promised_and_tested() -> None:
    setup = configparser.ConfigParser(interpolation=None)
    setup.read_string((ROOT / "setup.cfg").read_text())
    oldest = ".".join(map(str, OLDEST))
    assert f"torch>={oldest}" in setup["options"]["install_requires"].split()
    assert f"torch=={oldest}.0" in (ROOT / "oldest.txt").read_text().split()
