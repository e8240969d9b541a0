"""The picture of the report that the documents show."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from fakes.pages import stored_run

DOCS = Path(__file__).parents[2] / "docs"
MOST_BYTES = 250_000


def take(page: Path, picture: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script."""
    return subprocess.run(
        [sys.executable, DOCS / "screenshot.py", page, picture],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_picture_is_small_enough_for_a_readme() -> None:
    assert 20_000 < (DOCS / "report.png").stat().st_size <= MOST_BYTES


def test_without_a_browser_it_says_so_in_one_line(tmp_path: Path) -> None:
    done = take(tmp_path / "a.html", tmp_path / "a.png", PATH=str(tmp_path))
    assert done.returncode == 3
    assert done.stderr == "error: no browser: install chromium\n"


@pytest.mark.exhaustive
def test_it_takes_the_top_of_a_page(tmp_path: Path) -> None:
    if shutil.which("chromium") is None:
        if os.environ.get("RESNEXT_BROWSER_TESTS") == "required":
            pytest.fail("RESNEXT_BROWSER_TESTS=required, and chromium is not installed")
        pytest.skip("chromium is not installed: apt-get install chromium")
    page, picture = tmp_path / "a.html", tmp_path / "a.png"
    page.write_text(stored_run().html(), encoding="utf-8")
    done = take(page, picture)
    assert done.returncode == 0, done.stderr
    assert picture.stat().st_size <= MOST_BYTES
    with Image.open(picture) as image:
        assert image.size == (2560, 2820)
        assert len(image.convert("RGB").getcolors(1 << 16) or ()) > 20
