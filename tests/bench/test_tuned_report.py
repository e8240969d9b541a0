"""A search on a terminal: the verdict first, what was measured, why the others fell, commands."""

from __future__ import annotations

import re
import shlex
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from fakes.tuned import (
    AGREEMENT,
    SEARCHES,
    alone,
    changed,
    contradicted,
    for_latency,
    fresh,
    interrupted,
    none_passed,
    search,
)
from resnext.errors import printable
from resnext.timing.change import Verdict
from resnext_bench.report import grid
from resnext_bench.tune import amounts
from resnext_bench.tune.columns import HEADINGS, OF_GOAL, dropped_first
from resnext_bench.tune.commands import BUILD_TIMED, RUN, commands, on_front
from resnext_bench.tune.fallen import nearest, reasons
from resnext_bench.tune.known import KNOWN, priors
from resnext_bench.tune.page import tune_page
from resnext_bench.tune.record import CandidateRecord, GateRecord, TuneRecord
from resnext_bench.tune.report import measured, show, text
from resnext_bench.tune.sections.lead import lead
from resnext_bench.tune.standing import confirmed, disagreements, judged, times_baseline
from resnext_bench.tune.verdict import Word, verdict

WIDTHS = (20, 40, 80, 120, 200)


def table_of(shown: str) -> tuple[list[str], list[str]]:
    """The headings of the table, and its lines."""
    lines = shown.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("candidate "))
    end = lines.index("", start)
    return re.split(r"\s{2,}", lines[start].strip()), lines[start + 1 : end]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", SEARCHES)
def test_it_fits_the_terminal_but_commands_stay_whole(name: str, width: int) -> None:
    record = SEARCHES[name]()
    shown = text(record, width)
    pasted = {
        f"  {printable(command)}"
        for one in on_front(record)
        for purpose, command in commands(record, one)
        if one.name == record.pick or purpose != RUN
    }
    for line in shown.splitlines():
        assert cell_len(line) <= width or line in pasted
    assert pasted <= set(shown.splitlines())
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_a_narrow_terminal_drops_columns_in_order_and_keeps_the_goal() -> None:
    before: list[str] = []
    for width in range(20, 201, 12):
        record = search()
        headings, lines = table_of(text(record, width))
        order = dropped_first("throughput")
        kept = [heading for heading in order if heading in headings]
        assert kept == order[len(order) - len(kept) :]
        assert {"candidate", "images/s"} <= set(headings)
        assert set(before) <= set(headings)
        assert len(lines) >= len(measured(record))
        before = headings
    assert before == list(HEADINGS)


@pytest.mark.parametrize("name", ["whole", "latency"])
def test_every_column_but_two_has_its_place_in_the_order_of_leaving(name: str) -> None:
    goal = SEARCHES[name]().goal
    assert sorted([*dropped_first(goal), "candidate", OF_GOAL[goal]]) == sorted(HEADINGS)


VERDICTS: list[tuple[str, Word, str]] = [
    (
        "whole",
        "PICKED",
        "openvino int8 merged 32, 2 streams, batch 4: 437.1 images/s; 6.66x torch fp32, batch 4 (95"
        " % interval 6.58 to 6.74), in fresh processes; agreement 99.3 % (at least 99 %), top1-loss"
        " 0.4 points (at most 1 point), p99 19.4 ms (at most 20 ms)",
    ),
    ("latency", "PICKED", "slower than torch fp32, batch 1: 0.900x"),
    ("none passed", "NONE", "none of 16 candidates meets every gate (agreement at least 99.5 %)"),
    ("interrupted", "SO FAR", "interrupted, and `resume` goes on"),
    ("not begun", "NONE", "time was up"),
    ("alone", "PICKED", "ort-cpu fp32, batch 1: 98.2 images/s"),
    ("contradicted", "IN DOUBT", "in fresh processes openvino int8 merged auto"),
    ("nothing", "NONE", "there was no candidate"),
]


@pytest.mark.parametrize(("name", "word", "words"), VERDICTS)
def test_the_first_line_is_the_verdict(name: str, word: Word, words: str) -> None:
    record = SEARCHES[name]()
    found = verdict(record)
    assert found.word == word
    assert words in found.sentence
    assert text(record).splitlines()[0] == str(found)


def test_a_search_that_ran_out_of_time_says_so_whatever_it_picked() -> None:
    late = changed(search(), ended="time")
    assert verdict(late).word == "SO FAR"
    assert verdict(late).sentence.endswith("time was up before the race was over")
    last = late.candidates[-1].model_copy(update={"outcome": "not-measured"})
    late = changed(late, candidates=(*late.candidates[:-1], last))
    assert verdict(late).word == "SO FAR"
    assert verdict(late).sentence.endswith("time was up before all were measured")


def test_a_pick_among_the_few_that_were_measured_is_not_the_last_word() -> None:
    *others, baseline = search().candidates
    missing = others[-1].model_copy(update={"outcome": "not-measured"})
    found = verdict(changed(search(), candidates=(*others[:-1], missing, baseline)))
    assert found.word == "SO FAR"
    assert found.sentence.endswith("1 of 17 candidates was not measured")


def with_baseline(ratio: tuple[float, float, float] | None) -> TuneRecord:
    """A search whose baseline was only in the race."""
    record = search()
    *others, baseline = record.candidates
    baseline = baseline.model_copy(update={"ratio": ratio})
    return changed(record, candidates=(*others, baseline), confirmed=())


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        ((6.5, 6.4, 6.6), "6.50x torch fp32, batch 4 (95 % interval 6.40 to 6.60)"),
        ((1.04, 1.01, 1.07), "not told apart from torch fp32, batch 4: 1.040x"),
        ((1.03, 0.9, 1.2), "not told apart from torch fp32, batch 4: 1.030x"),
        ((1.001, 0.99, 1.01), "as fast as torch fp32, batch 4 within 2 %: 1.001x"),
        ((0.9, 0.85, 0.95), "slower than torch fp32, batch 4: 0.900x"),
        (None, "not compared with torch fp32, batch 4: too few rounds"),
    ],
)
def test_it_says_how_many_times_the_baseline_only_if_the_interval_shows_it(
    ratio: tuple[float, float, float] | None, words: str
) -> None:
    record = with_baseline(ratio)
    assert times_baseline(record).startswith(words)
    assert words in text(record).splitlines()[0]
    assert "faster" not in text(record)


def test_an_interval_that_disturbed_rounds_made_wide_is_no_headline() -> None:
    record = with_baseline((168.0, 8.39, 2351.0))
    first = text(record).splitlines()[0]
    assert "at least 8.39x torch fp32, batch 4" in first
    assert "168" not in first
    assert "168x" not in record_facts(record)
    assert "at least" not in times_baseline(with_baseline((6.6, 5.0, 9.0)))


def record_facts(record: TuneRecord) -> str:
    """The numbers at the head of the page."""
    return str(lead(record)).partition("<dl")[2].partition("</dl>")[0]


@pytest.mark.parametrize("ratio", [(1.5, 1.4, 1.6), (1.021, 1.0201, 1.03), (0.7, 0.6, 0.9)])
def test_verdicts_are_mirrored_if_the_sides_are_swapped(ratio: tuple[float, float, float]) -> None:
    mirrored = (1 / ratio[0], 1 / ratio[2], 1 / ratio[1])
    swapped = {"SLOWER": "FASTER", "FASTER": "SLOWER"}
    assert judged(mirrored, 0.02) == swapped[judged(ratio, 0.02)]


def test_fresh_processes_that_contradict_the_race_are_said_in_the_first_line_and_below() -> None:
    record = contradicted()
    against = disagreements(record)
    assert [line.partition(" (")[0] for line in against] == [
        "in fresh processes openvino int8 merged auto, 2 streams, batch 4 is faster than the pick,"
        " and in the race it was not: measure both again",
        "in fresh processes p99 is not proven: 21.200 ms",
        "the race and fresh processes disagree on torch fp32, batch 4: in the race it took 6.67x",
    ]
    shown = text(record)
    assert all(line in shown for line in against)
    assert against[0] in shown.splitlines()[0]
    assert disagreements(search()) == []
    assert "disagree" not in text(search())


@pytest.mark.parametrize("word", ["SAME", "CANNOT TELL"])
def test_a_runner_up_that_only_the_race_found_slower_is_said(word: Verdict) -> None:
    record = search()
    other = record.candidates[2].name  # slower in the race
    again = fresh(other, record.candidates[2].ratio, word)
    assert disagreements(changed(record, confirmed=(again,))) == [
        f"fresh processes do not confirm that {other} is slower, as it was in the race"
    ]
    assert disagreements(changed(record, confirmed=(fresh(other, None, "SLOWER"),))) == []


def test_a_faster_baseline_is_no_contradiction_but_is_said() -> None:
    record = for_latency()
    assert "torch fp32, batch 1 is faster than the pick: takes 0.900x" in text(record)
    assert verdict(record).word == "PICKED"


def test_the_pick_comes_first_and_p99_is_a_bound_or_unknown() -> None:
    record = search()
    turned = changed(record, candidates=record.candidates[::-1])
    headings, lines = table_of(text(turned))
    assert lines[0].startswith(str(record.pick))
    cells = [dict(zip(headings, re.split(r"\s{2,}", line), strict=True)) for line in lines]
    by_name = {one.name: one for one in record.candidates}
    for row in cells:
        one = by_name[row["candidate"]]
        assert row["outcome"] == one.outcome
        assert row["front"] == ("*" if one.on_front else "-")
        assert row["images/s"] == f"{one.images_per_s:,.1f}"
        bound = one.p99_ns and f"\u2264 {one.p99_ns / 1e6:.3f}"
        assert row["p99 ms"] == (bound or "-")
    assert {row["p99 ms"] == "-" for row in cells} == {True, False}


def test_those_that_fell_for_the_same_reason_share_a_line() -> None:
    lines = reasons(search())
    assert (
        "4 fp8: refused: a CPU has no fp8 arithmetic: it would be computed in fp32; take int8"
        in lines
    )
    assert "2 pt2: failed: no C++ compiler: g++ is not found; apt-get install g++" in lines
    assert (
        "5 candidates: slower: 1.134x to 1.380x the pick's time; 2 before an interval was known,"
        " at 2.34x to 2.55x the pick's time" in lines
    )
    record = search()
    turned = changed(record, candidates=record.candidates[::-1])
    assert any(" at 2.34x to 2.55x the pick's time" in line for line in reasons(turned))
    shown = text(search())
    assert all(line in shown for line in lines)


def test_what_was_tried_early_or_late_is_said_with_the_evidence_on_screen_and_page() -> None:
    record = search()
    assert priors(record) == []
    assert KNOWN not in text(record)
    early, late = "tried early: a reason", "tried late: \x1banother\n"
    told = {record.candidates[0].name: early, **dict.fromkeys([record.candidates[1].name], late)}
    told[record.candidates[7].name] = late
    candidates = [
        one.model_copy(update={"prior": told.get(one.name, "")}) for one in record.candidates
    ]
    planted = changed(record, candidates=tuple(candidates))
    assert priors(planted) == [
        f"{record.candidates[0].name}: {early}",
        f"2 openvino int8 with merged groups: {late}",
    ]
    shown = text(planted)
    assert f"\n{KNOWN}\n{record.candidates[0].name}: {early}\n" in shown
    assert "\x1b" not in shown
    assert tune_page(planted).count("tried early: a reason") == 1


def test_those_that_were_not_told_apart_are_not_called_as_fast() -> None:
    assert "openvino fp32, batch 1: same: not told apart from the pick in 10 rounds" in reasons(
        for_latency()
    )


def test_every_candidate_is_in_the_pick_or_in_a_reason() -> None:
    for name in ("whole", "latency", "none passed", "interrupted", "not begun", "alone"):
        record = SEARCHES[name]()
        fell = 0
        for line in reasons(record):
            count = re.match(r"(\d+) ", line)
            fell += int(count[1]) if count else 1
        others = [one for one in record.candidates if one.outcome not in ("picked", "baseline")]
        assert fell == len(others), name


def test_the_nearest_misses_are_listed_if_nothing_passed() -> None:
    record = none_passed()
    assert nearest(record) == [
        "openvino int8 merged 32, 2 streams, batch 4: agreement 99.3 % (at least 99.5 %)",
        "openvino int8 merged auto, 2 streams, batch 4: agreement 99.2 % (at least 99.5 %)",
        "openvino int8, batch 4: agreement 99.1 % (at least 99.5 %)",
    ]
    shown = text(record)
    assert shown.index("Nearest misses") < shown.index("Why they fell")
    assert "Nearest misses" not in text(search())


def missing(name: str, **actual: float | None) -> CandidateRecord:
    """A candidate with these values of the usual gates."""
    found: CandidateRecord = (
        search()
        .candidates[0]
        .model_copy(
            update={
                "name": name,
                "outcome": "gate",
                "gates": tuple(
                    gate.model_copy(update={"actual": actual[gate.name.replace("-", "_")]})
                    for gate in search().gates
                ),
            }
        )
    )
    return found


def test_fewer_and_smaller_misses_are_nearer_and_the_unknown_is_farthest() -> None:
    unknown = missing("unknown", agreement=0.995, top1_loss=0.1, p99=None)
    two = missing("two", agreement=0.989, top1_loss=1.1, p99=10.0)
    far = missing("far", agreement=0.995, top1_loss=0.5, p99=40.0)
    near = missing("near", agreement=0.9899, top1_loss=0.5, p99=10.0)
    record = changed(none_passed(), candidates=(two, unknown, far, near))
    assert [line.partition(":")[0] for line in nearest(record)] == ["near", "far", "unknown"]
    wrong = record.candidates[0].model_copy(update={"name": "wrong output", "gates": ()})
    with_it = changed(record, candidates=(wrong, *record.candidates))
    assert nearest(with_it) == nearest(record)


def shown_gate(actual: float | None, **facts: Any) -> str:
    return amounts.gate(AGREEMENT.model_copy(update={"actual": actual, **facts}))


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        (shown_gate(0.993), "agreement 99.3 % (at least 99 %)"),
        (shown_gate(0.99), "agreement 99 % (at least 99 %)"),
        (shown_gate(0.98999999), "agreement 98.999999 % (at least 99 %)"),
        (shown_gate(None), "agreement unknown (at least 99 %)"),
        (shown_gate(float("nan")), "agreement unknown (at least 99 %)"),
        (
            shown_gate(21.23456, name="p99", allowed=19.9999, at_least=False, unit="ms"),
            "p99 21.2 ms (at most 19.9999 ms)",
        ),
        (
            shown_gate(20.00001, name="p99", allowed=20.0, at_least=False, unit="ms"),
            "p99 20.00001 ms (at most 20 ms)",
        ),
        (
            shown_gate(1.0, name="top1-loss", allowed=1.0, at_least=False, unit="points"),
            "top1-loss 1 point (at most 1 point)",
        ),
    ],
)
def test_a_missed_gate_never_reads_as_a_kept_one(gate: str, words: str) -> None:
    assert gate == words


def test_the_commands_of_the_pick_come_before_those_of_other_points_of_the_front() -> None:
    record = search()
    shown = text(record).splitlines()
    front = on_front(record)
    assert front[0].name == record.pick
    assert {one.name for one in front} == {one.name for one in record.candidates if one.on_front}
    places = []
    for one in front:
        bench = shlex.split(commands(record, one)[1].text)
        for words in (one.export_command, bench):
            places.append(shown.index(f"  {shlex.join(words)}"))
    assert places == sorted(places)


def test_the_pick_runs_from_where_the_search_wrote_it_and_others_from_where_they_are_built() -> (
    None
):
    record = search()
    pick, other, *_ = on_front(record)
    built = other.export_command[-1]
    assert commands(record, pick)[1:] == [
        ("measure it", "resnext-bench --backend openvino --artifact best/ --batch 4"),
        ("run it", "resnext-classify photo.jpg --artifact best/ --backend openvino"),
    ]
    assert commands(record, other)[1:] == [
        ("measure it", f"resnext-bench --backend openvino --artifact {built} --batch 4"),
        ("run it", f"resnext-classify photo.jpg --artifact {built} --backend openvino"),
    ]


def test_a_timed_choice_says_what_making_it_again_does_not_give() -> None:
    record = search()
    lines = text(record).splitlines()
    timed = record.candidates[1]
    assert timed.merge_groups == "auto"
    told = f"{BUILD_TIMED}:"
    assert lines[lines.index(f"also on the front: {timed.name}") + 1] == told
    assert lines.count(told) == 1
    assert tune_page(record).count(BUILD_TIMED.capitalize()) == 1


def test_names_with_spaces_and_quotes_stay_one_word_of_a_command() -> None:
    one = search().candidates[0]
    made = {
        "export_command": ("resnext-export", "--output", "it's here/"),
        "bench_command": ("resnext-bench", "--artifact", "it's here/"),
    }
    odd = one.model_copy(update=made)
    for _, command in commands(changed(search(), command=()), odd):
        assert shlex.split(command).count("it's here/") == 1


def test_what_was_stored_without_commands_has_none() -> None:
    one = search().candidates[0].model_copy(update={"export_command": (), "bench_command": ()})
    assert commands(changed(search(), command=()), one) == []
    cut = one.model_copy(update={"export_command": ("resnext-export", "--output")})
    assert [purpose for purpose, _ in commands(changed(search(), command=()), cut)] == [
        "build it again"
    ]
    assert text(changed(search(), candidates=(one,))).startswith("PICKED")


def test_what_fresh_processes_had_too_few_rounds_for_was_not_compared() -> None:
    record = search()
    few = fresh(record.candidates[-1].name, None, "CANNOT TELL")
    told = confirmed(changed(record, confirmed=(few,)))
    assert told[0] == "torch fp32, batch 4 is not compared with the pick: too few rounds"


def test_an_interrupted_search_names_no_confirmation_and_one_alone_no_baseline() -> None:
    assert confirmed(interrupted()) == []
    assert "In fresh processes" not in text(interrupted())
    assert times_baseline(alone()) == ""


def test_a_screen_without_unicode_shows_bounds_in_ascii() -> None:
    raw = BytesIO()
    out = TextIOWrapper(raw, encoding="ascii")
    show(search(), Console(file=out, width=200))
    out.flush()
    assert b"<= 19.401" in raw.getvalue()
    assert b"\\u" not in raw.getvalue()


@pytest.mark.parametrize(
    ("name", "style"),
    [
        ("whole", "good"),
        ("contradicted", "doubtful"),
        ("interrupted", "doubtful"),
        ("none passed", "bad"),
        ("nothing", "bad"),
    ],
)
def test_the_first_word_has_the_color_of_what_it_means(name: str, style: str) -> None:
    found = verdict(SEARCHES[name]())
    [span] = grid.marked(str(found)).spans
    assert (span.start, span.end, span.style) == (0, len(found.word), grid.STYLES[style])


def test_what_the_race_took_is_said() -> None:
    assert (
        "the race made 98 visits; all candidates in all rounds are 204 (48 %); 212 s, with a"
        " budget of 600 s for each start" in text(search())
    )


def test_a_race_with_repeated_visits_has_no_share_of_the_grid_above_all_of_it() -> None:
    busy = changed(search(), visits=300, disturbed=290)
    said = text(busy)
    assert "300 visits, 290 of them disturbed; all candidates in all rounds are 204; 212" in said
    assert verdict(busy).word == "IN DOUBT"
    assert "other work disturbed 290 of 300 visits" in verdict(busy).sentence
    fresh_processes = said.split("In fresh processes")[1]  # they did not say so
    assert "other work" not in fresh_processes
    assert verdict(changed(search(), disturbed=49)).word == "PICKED"


def test_the_example_of_the_guide_is_what_a_terminal_shows() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "tune.md").read_text("utf-8")
    [example] = re.findall(r"```text\n(PICKED.*?)```", guide, re.DOTALL)
    shown = text(search(), 130).splitlines()
    assert [line for line in example.splitlines() if line not in shown] == []


def test_gates_without_a_name_that_is_known_are_shown_too() -> None:
    gate = GateRecord(name="memory", actual=12345.6, allowed=20000.0, unit="MB")
    assert amounts.gate(gate) == "memory 12346 MB (at most 20000 MB)"
