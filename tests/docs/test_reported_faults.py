"""The page of faults that others reported names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "concepts" / "reported-faults.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| [")]


def test_each_row_names_a_report_and_a_test() -> None:
    assert len(ROWS) > 20
    for row in ROWS:
        assert re.match(r"\| \[[^]]+#\d+\]\(https://github\.com/[^)]+/(issues|pull)/\d+\)", row), (
            row
        )
        assert re.search(r"\| `test_\w+` \|$", row), row


def test_each_test_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)` \|$", PAGE, re.MULTILINE))
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    assert named <= set(re.findall(r"^def (test_\w+)\(", code, re.MULTILINE))
