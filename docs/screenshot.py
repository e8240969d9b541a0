"""Take the picture of a report that README.md shows.

``python docs/screenshot.py REPORT.html PNG [HEIGHT]``; choose HEIGHT so that it ends below a chart.
Needs Chromium (Debian: ``apt-get install chromium``); without one, the exit code is 3.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

#: Pixels of the page that the picture shows; it has twice as many, for fine screens.
WIDTH, HEIGHT = 1280, 1410
#: Colors are few; a palette makes the file a third as large.
_COLORS = 64
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_TIMEOUT_S = 60


def screenshot(page: Path, picture: Path, height: int = HEIGHT) -> None:
    """Write the top of ``page`` to ``picture``, as PNG, in light colors.

    Raises:
        FileNotFoundError: there is no browser, or it wrote nothing.
    """
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        raise FileNotFoundError("no browser: install chromium")
    with tempfile.TemporaryDirectory() as folder:
        taken = Path(folder) / "taken.png"
        command = [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *(f"--user-data-dir={folder}/profile", f"--window-size={WIDTH},{height}"),
            "--force-device-scale-factor=2",
            *(f"--screenshot={taken}", page.resolve().as_uri()),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
        if not taken.is_file():
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise FileNotFoundError(f"{browser} took no picture: {last[0]}")
        with Image.open(taken) as image:
            few = image.convert("RGB").quantize(_COLORS, dither=Image.Dither.NONE)
            few.save(picture, optimize=True)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: python docs/screenshot.py REPORT.html PNG [HEIGHT]")
    try:
        screenshot(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
    except FileNotFoundError as exc:
        sys.stderr.write(f"error: {exc}\n")
        sys.exit(3)
