"""The report on a terminal: verdict first, as wide as the screen, legible on light and on dark."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import BytesIO, StringIO, TextIOWrapper
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
from click.testing import CliRunner
from rich.cells import cell_len
from rich.console import Console

from resnext.cli.app import as_flags
from resnext_bench.checks.registry import CHECKS
from resnext_bench.cli.bench import main
from resnext_bench.control import Control
from resnext_bench.measure import measure
from resnext_bench.plan import Case, Plan
from resnext_bench.record import FindingRecord, Row, RunRecord
from resnext_bench.report import columns, first_line, grid, sections, text
from resnext_bench.report.columns import ACCURACY, DROPPED_FIRST, HEADINGS, headings
from resnext_bench.report.first_line import verdict
from resnext_bench.report.rounds import sparkline
from resnext_bench.report.terminal import show
from resnext_bench.result import Run, read_run
from resnext_bench.rows import with_speedups
from resnext_bench.stats import timing_of

ROOT = Path(__file__).parents[2]
STORED = ROOT / "benchmarks" / "results"
ESSENTIAL = ("verdict", "backend", "batch", "median ms", "speedup")
LONG = "int8-calibrated-on-the-whole-training-set-and-merged-to-groups-of-32"
#: Offsets of the rounds' medians.
NOISE = (0, 3, -2, 1, -3, 2, -1, 0)


def stored(name: str) -> Run:
    return read_run(STORED / f"{name}.json")


CPU = stored("2026-11-28-xeon-6-167-amx-2cores-resnext50-fp32")
LABELED = stored("2026-11-23-epyc-25-17-vnni-2cores-fashion-mnist-int8")
GPU = stored("2026-11-27-h200-resnext50-fp16")


def row(
    backend: str,
    ms: float,
    *,
    batch: int = 8,
    rounds: int = 8,
    disturbed: Sequence[int] = (),
    **facts: Any,
) -> Row:
    """A row whose rounds have the median ``ms``, and know it to 0.2 %."""
    times = [[round(ms * 1e6 * (1 + noise / 1e3))] * 3 for noise in NOISE[:rounds]]
    timings = (timing_of("host", times, batch, disturbed),)
    return Row(
        **{"backend": backend, "batch": batch, "status": "valid", "timings": timings} | facts
    )


def failed(backend: str, reason: str, batch: int = 8) -> Row:
    return Row(backend=backend, batch=batch, status="failed", reasons=(reason,), exit_code=3)


def control(floor: float, limit: float = 0.01) -> Control:
    return Control(
        backend="torch",
        batch=8,
        boundary="host",
        rounds_ns=((1,),),
        ratio=(1.0, 1 - floor, 1 + floor),
        limit=limit,
    )


def run(*rows: Row, **facts: Any) -> Run:
    fields = {"control": control(0.004), "threads": 2, "unknown": ""} | facts
    made = CPU.model_copy(update=fields)
    return made.model_copy(update={"rows": with_speedups(rows, made.control)})


def refused(backend: str, code: str, message: str, hint: str = "", **facts: Any) -> Row:
    finding = FindingRecord(code=code, severity="refused", message=message, hint=hint)
    reason = f"{message}; {hint}" if hint else message
    facts |= {"status": "invalid", "reasons": (reason,), "findings": (finding,)}
    return row(backend, 10, **facts)


MIXED = run(
    row("torch", 20),
    row("ort-cpu", 10, variant=LONG),
    refused("pt2", "no-time", "a run took no time", "report it"),
    failed("trt", "no CUDA device"),
)
RUNS = {"cpu": CPU, "labeled": LABELED, "gpu": GPU, "mixed": MIXED}


def too_wide(shown: str, width: int) -> list[str]:
    return [line for line in shown.splitlines() if cell_len(line) > width]


def shown_headings(shown: str, run: RunRecord) -> list[str]:
    """Headings in the line of the table's heading."""
    line = next(each for each in shown.splitlines() if each.startswith("verdict "))
    return [
        heading for heading in headings(run) if re.search(rf"(^|  ){re.escape(heading)}( |$)", line)
    ]


# ---- width


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("name", RUNS)
def test_a_report_fits_the_screen_and_keeps_what_matters(name: str, width: int) -> None:
    report = RUNS[name]
    shown = text(report, width)
    assert too_wide(shown, width) == []
    assert re.match(r"(VALID|INVALID|FAILED): ", shown)
    kept = shown_headings(shown, report)
    assert set(ESSENTIAL) <= set(kept)
    longest = max(len(each.variant) for each in report.rows)
    assert width < 200 or longest > 60 or len(kept) == len(headings(report))
    for each in report.rows:
        assert f"{each.status.upper()} " in shown
        assert each.variant[:20] in shown


@pytest.mark.parametrize("width", [60, 80, 120, 160])
@pytest.mark.parametrize("name", RUNS)
def test_columns_leave_in_the_stated_order_and_are_named(name: str, width: int) -> None:
    report = RUNS[name]
    shown = text(report, width)
    missing = set(headings(report)) - set(shown_headings(shown, report))
    with_value = {
        heading
        for heading, *cells in zip(
            headings(report),
            *(c for r in report.rows for c in columns.lines(r, report)),
            strict=True,
        )
        if not set(cells) <= {"-", "n/a"}
    }
    several = name == "gpu"  # whose rows have a time on the host and one on the device
    order = [
        each for each in DROPPED_FIRST if each in with_value and not (several and each == "time")
    ]
    gone = missing & with_value
    assert gone == set(order[: len(gone)])
    said = " ".join(shown.split())
    named = all(
        re.sub(" M?[Bms]+$", "", heading) in said.partition("not shown: ")[2] for heading in gone
    )
    assert named or f"{len(gone)} columns are not shown" in said


def test_a_report_that_kept_every_column_would_be_too_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnext_bench.report.terminal.DROPPED_FIRST", ())
    assert too_wide(text(CPU, 80), 80)


@pytest.mark.parametrize("width", [20, 40])
def test_no_number_is_cut_however_narrow_the_screen(width: int) -> None:
    shown = text(CPU, width)
    assert all(f"{row.timings[0].stats.median_ns / 1e6:.3f} " in shown for row in CPU.rows)


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("name", RUNS)
def test_at_most_three_lines_explain(name: str, width: int) -> None:
    report = RUNS[name].model_copy(update={"reused": (), "harness_ns": 1.0})
    lines = text(report, width).splitlines()
    (last_fact,) = [index for index, line in enumerate(lines) if line.startswith("harness: ")]
    explaining = lines[last_fact + 1 :]
    assert 1 <= len(explaining) <= 3
    assert explaining[-1].endswith("More: `explain`")
    spelled = StringIO()
    show(report, Console(file=spelled, width=width), spell=as_flags)
    assert spelled.getvalue().endswith("More: --explain\n")
    assert len(spelled.getvalue().splitlines()) == len(lines)


def test_what_is_no_terminal_has_every_column_and_whole_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = text(MIXED)
    assert shown_headings(shown, MIXED) == list(HEADINGS)
    assert f"pt2 batch 8: {MIXED.rows[2].reasons[0]}" in shown.splitlines()
    monkeypatch.setattr("sys.stdout", StringIO())
    monkeypatch.delenv("COLUMNS", raising=False)
    assert grid.screen().width == grid.UNLIMITED
    monkeypatch.setenv("COLUMNS", "100")
    assert grid.screen().width == 100


def test_the_golden_report_of_80_columns() -> None:
    report = run(row("torch", 20), row("ort-cpu", 10), row("openvino", 30, disturbed=(1,)))
    lines = text(report, 80).splitlines()
    assert lines[0] == (
        "VALID: ort-cpu is the fastest at batch 8: 2.00x torch (95 % interval 2.00 to"
    )
    assert lines[1] == "  2.00); noise floor 0.4%"
    table = lines.index("", 3) + 1
    assert lines[table : table + 4] == [
        "verdict  backend   batch  time  median ms     ±  rounds    images/s  speedup",
        "VALID    torch         8  host     20.000  0.2%  ▁▁▁▁▁▁▁▁     400.0    1.00x",
        "VALID    ort-cpu       8  host     10.000  0.2%  ▁▁▁▁▁▁▁▁     800.0    2.00x",
        "VALID    openvino      8  host     30.000  0.2%  ▁×▁▁▁▁▁▁     266.7    0.67x",
    ]


# ---- verdict


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (run(row("torch", 20)), "VALID: torch takes 20 ms (± 0.2%) at batch 8"),
        (
            run(row("torch", 20), row("ort-cpu", 20.01)),
            "VALID: torch and ort-cpu cannot be told apart at batch 8; noise floor 0.4%",
        ),
        (
            run(
                *(
                    row(name, ms, batch=n)
                    for n in (1, 8)
                    for name, ms in (("torch", 20), ("ort", 10))
                )
            ),
            "VALID: ort is the fastest: 2.00x at batch 1, 2.00x at batch 8, over torch; noise floor"
            " 0.4%",
        ),
        (
            run(row("torch", 10), row("ort-cpu", 30), row("openvino", 20)),
            "VALID: torch is the fastest at batch 8: 2.00x openvino (95 % interval 2.00 to 2.00);"
            " noise floor 0.4%",
        ),
        (
            run(row("torch", 20), row("ort-cpu", 10), row("openvino", 10.02)),
            "VALID: ort-cpu and openvino are the fastest at batch 8, not told apart: 2.00x torch"
            " (95 % interval 2.00 to 2.00); noise floor 0.4%",
        ),
        (
            run(row("torch", 20), row("ort-cpu", 10), control=control(0.04)),
            "VALID: no speedups, the noise floor is 4.0%, above 1.0%: give a longer `duration` or a"
            " larger `precision_target`",
        ),
        (
            run(row("torch", 20, rounds=4), row("ort-cpu", 10, rounds=4), control=None),
            "VALID: too few undisturbed rounds to say which row is the fastest: give more `rounds`",
        ),
        (
            MIXED,
            "INVALID: 2 of 4 rows, first pt2 batch 8: a run took no time; report it. Of the valid"
            f" rows, ort-cpu {LONG} is the fastest at batch 8: 2.00x torch (95 % interval 2.00 to"
            " 2.00); noise floor 0.4%",
        ),
        (
            run(row("torch", 20), failed("trt", "no CUDA device")),
            "FAILED: 1 of 2 rows, trt batch 8: no CUDA device. Of the valid rows, torch takes 20 ms"
            " (± 0.2%) at batch 8",
        ),
        (
            run(refused("torch", "wrong-output", "wrong output: max error 3e-2 > 1e-4")),
            "INVALID: torch batch 8: wrong output",
        ),
        (
            run(row("torch", 20), ended="interrupted"),
            "VALID: interrupted early; torch takes 20 ms (± 0.2%) at batch 8",
        ),
    ],
)
def test_the_verdict_says_what_to_know_first(report: Run, expected: str) -> None:
    assert str(verdict(report)) == expected


def test_noise_is_said_after_what_is_wrong() -> None:
    noisy = refused("torch", "disturbed-machine", "all rounds were disturbed")
    wrong = refused("pt2", "wrong-output", "wrong output")
    both = noisy.model_copy(update={"findings": (*noisy.findings, *wrong.findings)})
    assert verdict(run(noisy, wrong)).sentence.startswith("2 of 2 rows, first pt2 batch 8: wrong")
    assert verdict(run(both)).sentence == "torch batch 8: wrong output"
    assert verdict(run(noisy)).sentence == "torch batch 8: all rounds were disturbed"


def test_noise_is_a_code_of_the_registry() -> None:
    assert set(first_line._NOISE) <= set(CHECKS)


def test_many_settings_have_one_clause_for_each_winner() -> None:
    rows = [
        row(name, ms, batch=batch)
        for batch in (1, 2, 4, 8, 16)
        for name, ms in (("torch", 20), ("ort-cpu", 5 + batch))
    ]
    sentence = verdict(run(*rows)).sentence
    assert sentence == (
        "ort-cpu is the fastest at 4 settings: 1.54x to 3.33x torch; torch is the fastest at batch"
        " 16: 1.05x ort-cpu (95 % interval 1.05 to 1.05); noise floor 0.4%"
    )


def test_the_fastest_rows_are_bold() -> None:
    out = StringIO()
    report = run(
        row("torch", 20), row("ort-cpu", 10), row("openvino", 10.02), row("pt2", 9, batch=1)
    )
    show(report, Console(file=out, width=80, force_terminal=True, color_system="standard"))
    bold = [line for line in out.getvalue().splitlines() if line.startswith("\x1b[1mVALID ")]
    assert [line.split()[1] for line in bold] == ["ort-cpu", "openvino"]
    noisy = report.model_copy(update={"control": control(0.5)})
    assert first_line.fastest(noisy) == set()


def test_a_name_cannot_pretend_to_be_another_line() -> None:
    report = run(row("torch", 20, variant="a\nVALID: all is well\x1b[31m"))
    assert not any(line.startswith("VALID: all") for line in text(report, 80).splitlines())
    assert "\x1b" not in text(report)


# ---- rounds


@pytest.mark.parametrize(
    ("medians", "disturbed", "expected"),
    [
        ([100, 110, 105], (), "▁▇▄"),
        ([100, 101, 100], (), "▁▂▁"),  # a steady row is flat
        ([100, 200, 150], (), "▁▇▄"),
        ([100, 900, 110], (1,), "▁×▇"),
        ([100, 900], (0, 1), "××"),
        ([0, 0], (), "▁▁"),
    ],
)
def test_rounds_are_drawn_by_their_medians(
    medians: Sequence[int], disturbed: Sequence[int], expected: str
) -> None:
    assert sparkline(timing_of("host", [[each] * 3 for each in medians], 1, disturbed)) == expected


def test_more_rounds_than_characters_share_them() -> None:
    drawn = sparkline(timing_of("host", [[100 + (index // 10)] for index in range(100)], 1), 10)
    assert len(drawn) == 10
    assert all(first <= second for first, second in pairwise(drawn))


# ---- characters and colors


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_encoding_is_served(encoding: str) -> None:
    report = run(row("torch", 20, variant="größe \u2713"), row("ort-cpu", 10))
    raw = BytesIO()
    screen = Console(file=TextIOWrapper(raw, encoding=encoding, write_through=True), width=100)
    show(report, screen, explain=True)
    shown = raw.getvalue().decode(encoding)
    assert ("▁▁" in shown) == (encoding == "utf-8")
    assert ("± " in shown or "  ±" in shown) == (encoding == "utf-8")
    assert ("größe" in shown) == (encoding != "ascii")
    assert too_wide(shown, 100) == []


#: Black, red, green, yellow, bright white, and the page's own colors, of common terminals.
PALETTES = {
    "xterm": ("000000", "cd0000", "00cd00", "cdcd00", "ffffff"),
    "VGA": ("000000", "aa0000", "00aa00", "aa5500", "ffffff"),
    "VS Code": ("000000", "cd3131", "0dbc79", "e5e510", "ffffff"),
    "GNOME": ("171421", "c01c28", "26a269", "a2734c", "ffffff"),
    "Windows": ("0c0c0c", "c50f1f", "13a10e", "c19c00", "f2f2f2"),
}
COLORS = {"black": 0, "red": 1, "green": 2, "yellow": 3, "bright_white": 4}


def contrast(one: str, other: str) -> float:
    """By WCAG 2."""

    def luminance(color: str) -> float:
        parts = [int(color[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", PALETTES)
@pytest.mark.parametrize("style", grid.STYLES.values())
def test_every_color_has_its_own_background_and_is_legible(style: str, palette: str) -> None:
    ink, _, paper = style.partition(" on ")
    colors = PALETTES[palette]
    assert contrast(colors[COLORS[ink]], colors[COLORS[paper]]) >= 4.0


def test_yellow_on_a_light_page_would_not_be_legible() -> None:
    assert contrast(PALETTES["xterm"][COLORS["yellow"]], "ffffff") < 2


def test_nothing_is_said_by_color_alone_and_nothing_is_dim() -> None:
    def printed(color: Literal["standard"] | None) -> str:
        out = StringIO()
        screen = Console(file=out, width=80, force_terminal=True, color_system=color)
        show(MIXED, screen, explain=True)
        return out.getvalue()

    codes = set(re.findall(r"\x1b\[([\d;]*)m", printed("standard")))
    assert codes == {"0", "1", "97;41"}  # bold, and white on red
    plain = re.sub(r"\x1b\[[\d;]*m", "", printed("standard"))
    assert plain == re.sub(r"\x1b\[[\d;]*m", "", printed(None))


# ---- explanation


def test_explain_alone_says_everything_and_measures_nothing() -> None:
    done = CliRunner().invoke(main, ["--explain"], env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    assert too_wide(done.stdout, 80) == []
    said = " ".join(done.stdout.split())
    for heading in (*HEADINGS, *(column.heading for column in ACCURACY)):
        assert f"{heading}: " in said
    assert ", ".join(DROPPED_FIRST) in said
    assert all(f"{code}: " in said for code in CHECKS)
    assert "`" not in said


@pytest.mark.parametrize("output", ["--json", "--markdown", "--html", "--junit"])
def test_explain_alone_writes_no_report(output: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--explain", output, str(tmp_path / "report")])
    assert done.exit_code == 2
    assert "--backend is needed" in done.output


@pytest.mark.parametrize("other", ["x.json", "./x.json", "link"])
@pytest.mark.parametrize("option", ["--markdown", "--html", "--junit"])
def test_two_outputs_are_not_one_file(option: str, other: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "x.json")
    arguments = ["--backend", "torch", "--json", str(tmp_path / "x.json"), option]
    done = CliRunner().invoke(main, [*arguments, f"{tmp_path}/{other}"])
    assert done.exit_code == 2
    assert f"{option} needs a separate file" in done.output


def test_nothing_measured_is_not_called_precise() -> None:
    case = Case("torch", 1)
    assert measure({}, Plan((case,), precision=0.01)).ended != "precise"
    rows = tuple(row.model_copy(update={"timings": ()}) for row in MIXED.rows)
    run = MIXED.model_copy(update={"rows": rows, "ended": "precise", "precision_target": 0.01})
    assert "every median" not in text(run)


def test_explain_names_the_findings_of_the_run_with_their_remedies() -> None:
    out = StringIO()
    show(MIXED, Console(file=out, width=80), explain=True)
    said = " ".join(out.getvalue().split())
    assert "no-time: report it" in said
    assert "batch-integrity: " not in said
    assert "More: " not in said
    assert " ".join(text(MIXED, 80, explain=True).split()) == said
    assert "no-time: report it" in MIXED.table(explain=True)


def test_the_guide_states_the_order_of_leaving() -> None:
    guide = " ".join((ROOT / "docs" / "guides" / "benchmarking.md").read_text("utf-8").split())
    assert ", ".join(DROPPED_FIRST) in guide


# ---- sections


@pytest.mark.parametrize("aligned", [False, True])
def test_a_further_section_is_shown_everywhere(
    aligned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ("rate  p99", " 100  3 ms")

    def more(_: RunRecord) -> sections.Section:
        return sections.Section("Load", lines, aligned)

    monkeypatch.setattr("resnext_bench.report.sections.SECTIONS", (*sections.SECTIONS, more))
    assert "Load\nrate  p99\n 100  3 ms" in text(MIXED).replace("rate p99\n100 3 ms", "")
    assert "## Load" in MIXED.markdown()
    assert ("```text\nrate  p99" in MIXED.markdown()) == aligned
