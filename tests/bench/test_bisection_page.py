"""The page of a search for bad blocks; `test_page` holds what every page has against it, too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from fakes.bisected import BISECTIONS, mended
from parsed_page import Page
from resnext_bench.cli.bench import main
from resnext_bench.page.bisection import bisection_page

SECTIONS = {
    "mended": ["blocks", "builds", "commands"],
    "for free": ["builds", "commands"],
    "one block": ["blocks", "builds", "commands"],
    "lossless": ["blocks", "builds", "commands"],
    "float only": ["blocks", "builds"],
    "elsewhere": ["builds"],
    "nothing to mend": ["builds"],
}


@pytest.mark.parametrize("name", BISECTIONS)
def test_a_page_begins_with_the_verdict_and_leaves_out_what_was_not_searched(name: str) -> None:
    found = BISECTIONS[name]()
    page = Page(bisection_page(found))
    assert page.sections() == SECTIONS[name]
    first = page.words.partition("What was built")[0]
    assert found.word in first
    assert found.reason in first
    assert not re.search(r"\b(nan|None|inf)\b", page.words)
    assert len(page.ids()) == len(set(page.ids()))
    assert page.counts()["rect"] == len(found.damage)


def cells(text: str, section: str) -> list[list[str]]:
    """The table of a section, its headings first."""
    [table] = re.findall(f'<section id="{section}".*?</section>', text, re.DOTALL)
    return [
        [re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        for row in re.findall(r"<tr.*?</tr>", table)
    ]


def test_bars_are_on_a_logarithmic_axis_and_those_that_stay_float_differ() -> None:
    text = bisection_page(mended())
    bars = re.findall(r'<rect [^>]*width="([\d.]+)%"[^>]*class="bar (\w+)"', text)
    assert [color for _, color in bars] == ["accent", "accent", "muted", "muted"]
    worst, bad, good, lossless = (float(width) for width, _ in bars)
    assert (worst, lossless) == (100, 0)
    # 0.31 and 0.0042, and a margin of 6 % of the distance at either end.
    assert bad == pytest.approx(100 * 1.06 / 1.12, abs=0.1)
    assert good == pytest.approx(100 * 0.06 / 1.12, abs=0.1)


def test_the_tables_have_the_numbers_of_every_block_and_every_build() -> None:
    text = bisection_page(mended())
    assert cells(text, "blocks")[1:] == [
        ["layer2.0", "not finite", "25.0%", "stays float"],
        ["layer1.0", "3.10e-01", "25.0%", "stays float"],
        ["fc", "4.20e-03", "25.0%", "int8"],
        ["conv1", "0.00e+00", "25.0%", "int8"],
    ]
    assert [row[1:5] for row in cells(text, "builds")[1:]] == [
        ["the artifact", "misses it !", "41.00%", "7.00e-01"],
        ["fp32", "meets it \u2713", "100.00%", "1.00e-06"],
        ["equalize", "misses it !", "-", "-"],
        ["layer2.0 float", "misses it !", "87.00%", "2.00e-01"],
        ["layer2.0 float, layer1.0 float", "meets it \u2713", "99.80%", "1.00e-02"],
    ]


@pytest.mark.parametrize(
    ("name", "price"),
    [
        ("mended", "1.30 times the original's time (95 %: 1.28 to 1.33)"),
        ("one block", "The price was not measured: the time of onnx-reference means nothing."),
        ("float only", ""),
    ],
)
def test_the_price_is_told_if_there_is_one(name: str, price: str) -> None:
    words = Page(bisection_page(BISECTIONS[name]())).words
    assert (price or "MENDED") in words
    assert price or "price" not in words.lower()


def test_the_page_command_takes_a_bisection_as_it_takes_a_run(tmp_path: Path) -> None:
    stored, page = tmp_path / "bisect.json", tmp_path / "page.html"
    stored.write_text(mended().to_json(), encoding="utf-8")
    done = CliRunner().invoke(main, ["page", str(stored), "--html", str(page)])
    assert done.exit_code == 0, done.output
    assert page.read_text(encoding="utf-8") == bisection_page(mended())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"attempts": []}', "is no search for bad blocks: created: Field required"),
        ('{"attempts": [NaN]}', "NaN is not a number of JSON"),
    ],
)
def test_what_is_no_bisection_is_refused(content: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_text(content)
    done = CliRunner().invoke(main, ["page", str(path), "--html", str(tmp_path / "page.html")])
    assert done.exit_code == 4
    assert problem in done.output
    assert not (tmp_path / "page.html").exists()
