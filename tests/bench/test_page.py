"""The page of a run, without a browser: what is in it, and what can never be."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from fakes.bisected import mended, with_text
from fakes.pages import COMMAND, HOSTILE, RESULTS, full_run, hostile_run, stored_run
from fakes.tuned import named, search
from parsed_page import Page
from resnext_bench.cli.bench import main
from resnext_bench.page import markup
from resnext_bench.page.bisection import bisection_page
from resnext_bench.page.entries import entries, valid
from resnext_bench.page.scales import Scale, linear, logarithmic, number, tick_texts
from resnext_bench.page.sections.commands import row_command
from resnext_bench.record import Row
from resnext_bench.report import verdict
from resnext_bench.result import read_run
from resnext_bench.scenarios.energy_record import EnergyRecord
from resnext_bench.stats import timing_of
from resnext_bench.tune.page import tune_page

MOST_BYTES = 1_000_000
#: Of the full run, in the order of the page.
SECTIONS = [
    *("rows", "speedups", "rounds", "batches", "trade-off", "served", "load"),
    *("loadgen", "limits", "cold-start", "energy", "memory", "soak", "parity", "precision"),
    *("machine", "commands"),
]
URL_ATTRIBUTES = {"src", "href", "action", "data", "poster", "srcset", "xlink:href", "style"}


#: Of each kind, with everything.
WHOLE: dict[str, Callable[[], str]] = {
    "run": lambda: full_run().html(),
    "search": lambda: tune_page(search()),
    "bisection": lambda: bisection_page(mended()),
}


@pytest.fixture(scope="module", params=WHOLE)
def text(request: pytest.FixtureRequest) -> str:
    """The page of each kind."""
    return WHOLE[request.param]()


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    """The same, parsed."""
    return Page(text)


def test_the_sections_of_a_run_with_everything_are_in_order_after_the_verdict() -> None:
    text = full_run().html()
    page = Page(text)
    found = [str(attributes["id"]) for name, attributes in page.elements if name == "section"]
    assert found == SECTIONS
    assert text.index("11 of 13 rows valid, 1 invalid, 1 failed") < text.index('id="rows"')


STORED = [
    path
    for path in sorted(RESULTS.glob("*.json"))
    if not path.stem.endswith(("acceptance", "toolkit-speed"))
]


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem[:40])
def test_stored_runs_have_a_page_without_the_sections_that_they_lack(
    path: Path,
) -> None:
    run = read_run(path)
    page = Page(run.html())
    found = [attributes["id"] for name, attributes in page.elements if name == "section"]
    assert {"rows", "rounds", "machine"} <= set(found)
    limited = any(row.parity and (row.parity.inputs or row.parity.limits) for row in run.rows)
    assert ("parity" in found) == limited
    assert ("commands" in found) == bool(run.command)
    assert ("limits" in found) == any(row.distance for row in run.rows)
    assert not any(attributes.get("id") == "roofline-chart" for _, attributes in page.elements)
    for row in run.rows:
        assert row.backend in page.words


def test_the_table_has_every_row_with_its_verdict_and_its_numbers() -> None:
    run = full_run()
    [table] = re.findall(r"<table class=.sortable.*?</table>", run.html(), re.DOTALL)
    head, *rows = [
        [re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        for row in re.findall(r"<tr.*?</tr>", table)
    ]
    assert head[:2] == ["backend", "verdict"]
    assert len(rows) == len(run.rows)
    for row, cells in zip(run.rows, rows, strict=True):
        shown = dict(zip(head, cells, strict=True))
        assert shown["backend"] == row.backend
        assert shown["verdict"].split()[0] == row.status.upper()
        assert shown["batch"] == str(row.batch)
        if row.timings:
            assert shown["median ms"] == f"{row.timings[-1].stats.median_ns / 1e6:.3f}"


def test_a_run_of_failures_has_a_page_that_says_so() -> None:
    run = full_run()
    page = Page(run.model_copy(update={"rows": run.rows[-1:], "control": None}).html())
    assert "0 of 1 rows valid, 1 failed" in page.words
    assert "no GPU" in page.words
    assert page.counts()["figure"] == 0


def invalid(row: Row) -> Row:
    """``row``, measured and not valid."""
    return row.model_copy(update={"status": "invalid", "reasons": ("wrong",)})


def timeless(row: Row) -> Row:
    """``row``, whose runs took no time."""
    if not row.timings:
        return row
    nothing = timing_of("host", [[0, 0], [], [0, 0]], row.batch)
    return row.model_copy(update={"timings": (nothing,)})


def not_finite(row: Row) -> Row:
    """``row``, whose logits were not finite."""
    if row.parity is None:
        return row
    inputs = tuple(kind.model_copy(update={"max_error": None}) for kind in row.parity.inputs)
    return row.model_copy(
        update={"parity": row.parity.model_copy(update={"inputs": inputs, "max_error": None})}
    )


@pytest.mark.parametrize("change", [invalid, timeless, not_finite])
def test_rows_that_are_all_alike_bad_have_a_page(change: Callable[[Row], Row]) -> None:
    run = full_run()
    rows = tuple(map(change, run.rows))
    for some in (rows, rows[:1]):
        page = Page(run.model_copy(update={"rows": some, "control": None}).html())
        assert page.counts()["section"] >= 5
        assert not re.search(r"\b(nan|None)\b", page.words)


def test_above_the_noise_floor_the_page_says_why_there_are_no_speedups() -> None:
    run = stored_run()
    assert run.control is not None
    noisy = run.control.model_copy(update={"ratio": (1.1, 1.0, 1.2)})
    words = Page(run.model_copy(update={"control": noisy}).html()).words
    assert "None are shown: the noise floor of 10.0% is above 3.0%" in words


def test_energy_that_could_not_be_counted_has_its_reason() -> None:
    run = full_run()
    record = EnergyRecord(images=1, seconds=1.0, uses=(), problems=("RAPL needs root",))
    rows = tuple(row.model_copy(update={"energy": record}) for row in run.rows)
    words = Page(run.model_copy(update={"rows": rows}).html()).words
    assert "It could not be counted: RAPL needs root." in words


def test_names_are_unique_and_references_lead_somewhere(page: Page) -> None:
    ids = page.ids()
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for key in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(key) is None or attributes[key] in ids
        if (attributes.get("href") or "").startswith("#"):
            assert str(attributes["href"])[1:] in ids


def test_every_picture_has_words_for_those_who_do_not_see_it(page: Page) -> None:
    pictures = [attributes for name, attributes in page.elements if name == "svg"]
    for attributes in pictures:
        seen = attributes.get("aria-hidden") != "true"
        if seen and attributes.get("viewbox") is None and attributes.get("class"):
            assert attributes["role"] == "img"
            assert {"aria-labelledby", "aria-describedby"} <= set(attributes)
    assert page.counts()["figcaption"] == page.counts()["figure"] >= 1


def test_nothing_is_loaded_and_the_policy_allows_exactly_the_pages_style_and_script(
    text: str, page: Page
) -> None:
    [policy] = [
        attributes["content"] or ""
        for name, attributes in page.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for name in ("style", "script"):
        [content] = re.findall(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
        assert "http" not in content
        assert "url(" not in content
    for _, attributes in page.elements:
        for key in URL_ATTRIBUTES & set(attributes):
            assert (attributes[key] or "").startswith("#"), attributes
        assert not any(key.startswith("on") for key in attributes)


def test_the_script_is_a_few_kilobytes(text: str) -> None:
    [script] = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(script) < 5_000


#: A page with a text in every string that others choose.
PAGES: dict[str, Callable[[str], str]] = {
    "run": lambda text: hostile_run(text).html(),
    "search": lambda text: tune_page(named(text)),
    "bisection": lambda text: bisection_page(with_text(text)),
}


def check_harmless(made: Callable[[str], str]) -> None:
    """The page has the elements of the same page with a harmless text, and shows the text."""
    plain, hostile = Page(made("plain")), Page(made(HOSTILE))
    assert hostile.counts() == plain.counts()
    assert hostile.counts()["script"] == 1
    names = {key for _, attributes in hostile.elements for key in attributes}
    assert names == {key for _, attributes in plain.elements for key in attributes}
    assert HOSTILE in hostile.words


@pytest.mark.parametrize("kind", PAGES)
def test_names_from_users_and_files_stay_text(kind: str) -> None:
    check_harmless(PAGES[kind])


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_that_does_not_escape_is_seen(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markup, "escape", lambda value: value)
    with pytest.raises(AssertionError):
        check_harmless(PAGES[kind])


@pytest.mark.parametrize("kind", PAGES)
def test_characters_that_no_file_can_hold_or_that_turn_text_around_are_shown(kind: str) -> None:
    text = PAGES[kind]("a\0b\x1bc\ud800d\u202ee")
    text.encode("utf-8")
    assert r"a\x00b\x1bc\ud800d\u202ee" in text


def test_a_large_run_stays_under_a_megabyte() -> None:
    run = full_run()
    rounds = tuple(tuple(range(10**6, 10**6 + 2000)) for _ in range(24))
    rows = []
    for index in range(100):
        row = run.rows[index % 12]
        timing = row.timings[-1].model_copy(update={"rounds_ns": rounds, "disturbed": (3, 7)})
        rows.append(row.model_copy(update={"timings": (timing,), "variant": f"candidate {index}"}))
    text = run.model_copy(update={"rows": tuple(rows)}).html()
    assert len(text.encode()) < MOST_BYTES


def test_the_command_for_a_row_measures_that_row() -> None:
    run = full_run()
    for entry in entries(run):
        _, *words = row_command(run, entry).split()
        parsed = main.make_context("resnext-bench", words).params
        assert parsed["backend"] == (entry.row.backend,)
        assert parsed["batch"] == (entry.row.batch,)
        assert parsed["duration"] == 3
        assert parsed["json_path"] is None


def test_the_command_for_a_candidate_has_its_precision_and_width_but_artifacts_have_none() -> None:
    run = full_run()
    row = run.rows[0].model_copy(update={"variant": "int8 merged 32", "precision": "int8"})
    run = run.model_copy(update={"rows": (row,), "command": (*COMMAND, "--precision=fp32,int8")})
    assert row_command(run, entries(run)[0]).endswith("--precision int8 --merge-groups 32")
    of_artifacts = run.model_copy(update={"command": (*COMMAND, "--artifact", "a")})
    assert row_command(of_artifacts, entries(of_artifacts)[0]) == ""


def test_the_front_has_every_row_that_none_beats_at_both() -> None:
    rows = valid(full_run())
    [page] = re.findall('<section id="trade-off".*?</section>', full_run().html(), re.DOTALL)
    for row in rows:
        beaten = any(o.ms < row.ms and o.images_per_s > row.images_per_s for o in rows)
        shown = re.search(rf"<title>{re.escape(row.name)}\n[^<\n]*(\non the front)?<", page)
        assert shown is not None
        assert (shown[1] is None) == beaten


@pytest.mark.parametrize(
    "scale",
    [
        *(linear([0, high], zero=True) for high in (1e-9, 0.03, 7, 100, 5e6)),
        *(linear([low, high]) for low, high in ((99, 101), (-4, 20), (5, 5), (0, 0))),
        *(logarithmic([low, high]) for low, high in ((1, 1), (1, 64), (1e-6, 1e3), (2, 2.2))),
    ],
)
def test_an_axis_has_a_few_round_ticks_that_read_as_different_numbers(scale: Scale) -> None:
    ticks = scale.ticks(5)
    assert 1 <= len(ticks) <= 5
    assert all(scale.low <= tick <= scale.high for tick in ticks)
    assert ticks == sorted(set(ticks))
    texts = tick_texts(ticks)
    assert len(set(texts)) == len(ticks)
    for tick, text in zip(ticks, texts, strict=True):
        assert float(text.replace(",", "")) == pytest.approx(tick, rel=1e-6)


@pytest.mark.parametrize("make", [linear, logarithmic])
def test_numbers_that_no_machine_has_make_an_axis_too(make: Callable[[list[float]], Scale]) -> None:
    scale = make([5e-324, 1.7e308, -1.7e308, 0.0, float("inf"), float("nan")])
    assert scale.ticks()
    assert 0 <= scale.fraction(1.7e308) <= 1


def test_values_beyond_an_axis_are_at_its_end() -> None:
    scale = Scale(1, 100, log=True)
    assert [scale.fraction(value) for value in (0, 1, 10, 100, 1e9)] == [0, 0, 0.5, 1, 1]


def test_numbers_have_three_digits() -> None:
    values = (0, 0.5, 66.306, 375.9, 44393.0, 3.2e-7, 1.2e18)
    assert [number(v) for v in values] == [
        "0",
        "0.500",
        "66.3",
        "376",
        "44,393",
        "3.2e-07",
        "1.2e+18",
    ]


def test_the_command_writes_the_page_of_a_stored_run(tmp_path: Path) -> None:
    stored, page = tmp_path / "run.json", tmp_path / "report.html"
    stored.write_text(full_run().model_dump_json(), encoding="utf-8")
    done = CliRunner().invoke(main, ["page", str(stored), "--html", str(page)])
    assert done.exit_code == 0, done.output
    assert page.read_text(encoding="utf-8") == full_run().html()


@pytest.mark.parametrize(
    ("rows", "complete"), [(0, True), (0, False), (2, False)], ids=["none", "no", "cut"]
)
def test_a_run_without_rows_or_end_is_not_green(rows: int, complete: bool) -> None:
    whole = full_run()
    run = whole.model_copy(update={"rows": whole.rows[:rows], "complete": complete})
    assert run.rows == () or all(row.status == "valid" for row in run.rows)
    page = run.html()
    assert f'<span class="invalid">! {rows} of {rows} rows valid' in page
    assert ". ." not in page
    assert "; ." not in page


def test_of_invalid_rows_beside_valid_ones_the_page_says_who_is_the_fastest() -> None:
    whole = full_run()
    broken = whole.rows[-1].model_copy(update={"status": "invalid", "reasons": ("wrong",)})
    run = whole.model_copy(update={"rows": (*whole.rows[:-1], broken)})
    standing = verdict(run).sentence.partition("Of the valid rows, ")[2]
    assert standing
    assert f"<p>{standing}.</p>" in run.html()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{}"], 2, "--html is missing"),
        (["{}", "--html", "{}"], 2, "needs a separate file"),
        (["{}", "--html", "-"], 2, "needs a file; only --json can go to stdout"),
        (["absent.json", "--html", "a.html"], 4, "absent.json"),
    ],
)
def test_what_cannot_become_a_page_is_one_line(
    arguments: list[str], code: int, words: str, tmp_path: Path
) -> None:
    stored = tmp_path / "run.json"
    stored.write_text(full_run().model_dump_json(), encoding="utf-8")
    done = CliRunner().invoke(main, ["page", *(each.format(stored) for each in arguments)])
    assert done.exit_code == code
    assert words in done.output
    assert len(done.output.strip().splitlines()) == 1
