"""The page of a search, without a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from fakes.pages import RESULTS
from fakes.tuned import SEARCHES, changed, none_passed, search
from parsed_page import Page
from resnext.errors import BadInput
from resnext_bench import Tuned, read_tuned
from resnext_bench.cli.bench import main
from resnext_bench.tune.page import tune_page
from resnext_bench.tune.record import TuneRecord
from resnext_bench.tune.report import text
from resnext_bench.tune.sections import race
from resnext_bench.tune.verdict import verdict

#: Of a whole search, in the order of the page.
SECTIONS = [
    *("candidates", "race", "trade-off", "size", "confirmation", "fallen", "gates", "commands"),
    "machine",
]
#: Those that a search lacks.
WITHOUT = {
    "whole": set(),
    "latency": {"size", "gates"},
    "none passed": {"confirmation"},
    "interrupted": {"confirmation"},
    "not begun": {"race", "trade-off", "size", "confirmation", "gates"},
    "alone": {"race", "trade-off", "size", "confirmation", "fallen", "gates"},
    "nothing": {"candidates", "race", "trade-off", "size", "confirmation", "fallen", "gates"},
}


@pytest.mark.parametrize("name", WITHOUT)
def test_sections_are_in_order_and_those_without_data_are_left_out(name: str) -> None:
    page = Page(tune_page(SEARCHES[name]()))
    assert page.sections() == [one for one in SECTIONS if one not in WITHOUT[name]]


@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_has_a_page_that_begins_with_the_verdict(name: str) -> None:
    record = SEARCHES[name]()
    page = Page(tune_page(record))
    assert verdict(record).word in page.words.partition("Candidates")[0]
    assert not re.search(r"\b(nan|None|inf)\b", page.words)
    ids = page.ids()
    assert len(ids) == len(set(ids))


def test_the_table_has_every_candidate_with_why_it_fell() -> None:
    record = search()
    [table] = re.findall('<section id="candidates".*?</table>', tune_page(record), re.DOTALL)
    rows = [
        re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr.*?</tr>", table)
    ]
    assert rows[0][:3] == ["candidate", "outcome", "front"]
    for one, row in zip(record.candidates, rows[1:], strict=True):
        cells = dict(zip(rows[0], row, strict=True))
        assert cells["candidate"] == one.name
        assert one.outcome in cells["outcome"]
        assert re.sub("<.*?>", "", cells["why"]).startswith(one.reason)
        assert cells["front"] == ("*" if one.on_front else "-")
        # A cell begins with its number, so that the column sorts.
        assert cells["p99 ms, at most"] == (f"{one.p99_ns / 1e6:.3f}" if one.p99_ns else "-")


def test_a_column_without_a_value_is_left_out_of_the_table() -> None:
    assert "95 % interval" in tune_page(search()).partition("<tbody>")[0]
    assert "95 % interval" not in tune_page(SEARCHES["alone"]()).partition("<tbody>")[0]


def test_the_race_has_a_line_for_each_that_ran_and_says_where_it_left() -> None:
    record = search()
    section = race.section(record)
    assert section is not None
    ran = [one for one in record.candidates if one.rounds_ns]
    assert len(re.findall('<path [^>]*class="line ', section.body)) == len(ran)
    for one in ran:
        rounds = len(one.rounds_ns)
        end = f"left after round {rounds}" if rounds < 12 else "in it to round 12"
        [hint] = re.findall(rf"<title>{one.name}\n(.*?)</title>", section.body, re.DOTALL)
        assert hint.endswith(f"{end}\n{one.outcome}")
    assert "openvino fp32, batch 4 left after round 2 at " in section.body


def test_the_race_is_in_time_for_what_the_goal_counts() -> None:
    per_image = race.section(search())
    per_run = race.section(changed(search(), goal="latency"))
    assert per_image is not None
    assert per_run is not None
    assert re.search(r"openvino int8, batch 1\n1\.3\d+x", per_image.body)
    assert re.search(r"openvino int8, batch 1\n0\.17\d*x", per_run.body)


def test_rounds_that_the_leader_was_measured_in_alone_drop_nobody() -> None:
    record = search()
    pick, *others = record.candidates
    alone = dict.fromkeys(range(12, 40), pick.rounds_ns[0])
    longer = pick.model_copy(update={"rounds_ns": pick.rounds_ns | alone})
    section = race.section(changed(record, candidates=(longer, *others)))
    before = race.section(record)
    assert section is not None
    assert before is not None
    assert section.body == before.body


def test_a_baseline_that_is_measured_in_a_few_rounds_was_not_dropped() -> None:
    record = search()
    *others, baseline = record.candidates
    few = {at: baseline.rounds_ns[at] for at in range(8)}
    short = baseline.model_copy(update={"rounds_ns": few})
    section = race.section(changed(record, candidates=(*others, short)))
    assert section is not None
    assert "in it to round 8\nbaseline" in section.body
    assert "torch fp32, batch 4 left" not in section.body


def test_without_a_pick_the_race_is_against_the_fastest() -> None:
    section = race.section(none_passed())
    assert section is not None
    assert "The fastest is openvino int8 merged 32, 2 streams, batch 8" in section.note


def test_a_leader_that_came_late_is_compared_in_the_rounds_that_it_was_in() -> None:
    record = search()
    pick, *others = record.candidates
    late = pick.model_copy(
        update={"rounds_ns": {at: ns for at, ns in pick.rounds_ns.items() if at >= 8}}
    )
    section = race.section(changed(record, candidates=(late, *others)))
    assert section is not None
    assert "openvino int8, batch 4\n" in section.body  # in it to round 9
    assert "ort-cpu int8 merged 32, batch 4\n" not in section.body  # left before
    nobody = late.model_copy(update={"rounds_ns": {99: (1,)}})
    assert race.section(changed(record, candidates=(nobody, *others))) is None


def test_a_search_of_hundreds_of_candidates_stays_under_a_megabyte() -> None:
    record = search()
    rounds = {at: tuple(range(10**6 + at, 10**6 + at + 50)) for at in range(40)}
    many = [
        one.model_copy(update={"name": f"{one.name} {index}", "rounds_ns": rounds})
        for index in range(20)
        for one in record.candidates
    ]
    assert len(tune_page(changed(record, candidates=tuple(many))).encode()) < 1_000_000


# ---- stored


def stored(record: TuneRecord, folder: Path) -> Path:
    path = folder / "tune.json"
    path.write_text(record.model_dump_json(), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", [name for name in SEARCHES if name != "absurd"])
def test_a_stored_search_is_read_as_it_was(name: str, tmp_path: Path) -> None:
    record = SEARCHES[name]()
    read = read_tuned(stored(record, tmp_path))
    assert isinstance(read, Tuned)
    assert read.model_dump() == record.model_dump()
    assert read.table() == text(record)
    assert read.html() == tune_page(record)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format_version": 2}, "its format_version is 2; read it with a newer toolkit"),
        ({"format_version": True}, "its format_version is True"),
        ({"margin": -1}, "margin Input should be greater than or equal to 0"),
        ({"visits": 1 << 63}, "visits Input should be less than"),
        ({"threads": 0}, "threads Input should be greater than or equal to 1"),
        ({"surprise": 1}, "surprise Extra inputs are not permitted"),
        ({"goal": "size"}, "goal Input should be 'latency' or 'throughput'"),
    ],
)
def test_what_is_no_search_of_this_version_is_refused_in_one_line(
    change: dict[str, object], problem: str, tmp_path: Path
) -> None:
    path = stored(search(), tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadInput) as caught:
        read_tuned(path)
    message = f"{caught.value}; {caught.value.hint}" if caught.value.hint else str(caught.value)
    assert f"{path} is not a stored search (format_version 1)" in message
    assert problem in message
    assert "\n" not in message


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = stored(search(), tmp_path)
    path.write_text(path.read_text().replace('"margin":0.02', '"margin":NaN'))
    with pytest.raises(BadInput, match="NaN is not a number of JSON"):
        read_tuned(path)


def test_the_page_command_takes_a_search_as_it_takes_a_run(tmp_path: Path) -> None:
    path, page = stored(search(), tmp_path), tmp_path / "page.html"
    done = CliRunner().invoke(main, ["page", str(path), "--html", str(page)])
    assert done.exit_code == 0, done.output
    assert page.read_text(encoding="utf-8") == tune_page(search())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is not a stored run"),
        ("[]", "is not a stored run"),
        ('{"candidates": []}', "is not a stored search (format_version 1): created Field required"),
        ('{"candidates": [], "format_version": 7}', "read it with a newer toolkit"),
    ],
)
def test_the_page_command_says_what_a_file_is_not(
    content: str, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "some.json"
    path.write_text(content)
    done = CliRunner().invoke(main, ["page", str(path), "--html", str(tmp_path / "page.html")])
    assert done.exit_code == 4
    assert problem in done.output
    assert not (tmp_path / "page.html").exists()


def test_a_run_is_no_search() -> None:
    run = next(iter(sorted(RESULTS.glob("*fp32.json"))))
    with pytest.raises(BadInput, match="is not a stored search"):
        read_tuned(run)
