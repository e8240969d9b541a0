"""`--junit`: a report that every reader takes, written whatever happens, that agrees with the exit
code.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

import junit_schema
from resnext.cli.app import guarded
from resnext.cli.junit import JUnit, JUnitCase, junit_option
from resnext.cli.parity import main as parity
from resnext.cli.parity_junit import cases_of_integrity, cases_of_parity, cases_of_pixels
from resnext.errors import BadArtifact, GateFailed
from resnext.verify.batches.laws import Integrity, Law
from resnext.verify.parity import compare
from resnext.verify.pixels import Mistake, PictureDifference, PixelComparison

EARLIER = Path(__file__).parents[1] / "data" / "earlier_artifacts"
CASES = [
    JUnitCase("one", "machine.model", time_s=0.000612345),
    JUnitCase("two", "machine.model", "failure", "steady", ["drifts; set `rounds`", "and <&>"], 2),
    JUnitCase("three", "machine.model", "error", "exit code 3", ["no device"]),
    JUnitCase("four", "machine.model", "skipped", reasons=["CANNOT TELL"]),
]


def report(*cases: JUnitCase, text: str = "") -> JUnit:
    junit = JUnit("resnext-bench")
    junit.add(cases, text)
    return junit


def outcomes(path: Path) -> dict[str, str]:
    """The outcome of each case of a file, which is checked."""
    text = path.read_text(encoding="utf-8")
    assert junit_schema.problems(text) == []
    cases = ElementTree.fromstring(text).iter("testcase")
    return {case.get("name", ""): case[0].tag if len(case) else "passed" for case in cases}


def test_a_report_keeps_to_the_schemas() -> None:
    text = report(*CASES, text="a table\nof two lines").xml()
    assert junit_schema.problems(text) == []
    suite = ElementTree.fromstring(text)[0]
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped", "time")] == [
        *("4", "1", "1", "1", "2.001")
    ]
    cases = suite.findall("testcase")
    assert [case.get("time") for case in cases][:2] == ["0.000612345", "2.000000000"]
    failure = cases[1][0]
    assert failure.get("type") == "steady"
    assert failure.get("message") == "drifts; set --rounds; and <&>"
    assert failure.text == "drifts; set --rounds\nand <&>"
    assert suite.findtext("system-out") == "a table\nof two lines"


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        (
            "<testsuites>",
            '<testsuites><testcase name="a" classname="b" time="0" />',
            "testsuites contains testcase testsuite",
        ),
        ('failures="1"', 'failures="0"', "failures is 0, and there are 1"),
        ('package="resnext-bench" ', "", "testsuite has no package"),
        ('time="2.001"', 'time="2.0006"', "time of testsuite is '2.0006'"),
        ('timestamp="', 'timestamp="0', "timestamp of testsuite"),
        ('name="four"', 'name="one"', "'one') is there twice"),
        ('name="four"', 'name="four" status="run"', "testcase has status"),
        ("<properties />", "", "testsuite contains testcase"),
        ("<error", "<system-out /><error", "testcase contains system-out error"),
        ("<failure", "text<failure", "testcase contains text"),
        (' type="steady"', "", "failure has no type"),
        ("error", "blunder", "blunder is unknown"),
    ],
)
def test_the_check_of_the_schema_sees_a_planted_fault(right: str, wrong: str, problem: str) -> None:
    text = report(*CASES).xml()
    assert right in text
    assert problem in "; ".join(junit_schema.problems(text.replace(right, wrong)))


def test_pytests_own_report_has_the_elements_that_ours_has(tmp_path: Path) -> None:
    """A reader that takes pytest's files finds the same elements and attributes in ours."""
    (tmp_path / "test_four.py").write_text(
        "import pytest\n"
        "@pytest.fixture\ndef broken(): raise OSError\n"
        "def test_one(): pass\n"
        "def test_two(): assert False\n"
        "def test_three(broken): pass\n"
        "def test_four(): pytest.skip('no')\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "--junitxml=x.xml", "-p", "no:cacheprovider"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    theirs = ElementTree.parse(tmp_path / "x.xml").getroot()
    ours = ElementTree.fromstring(report(*CASES).xml())
    assert ours.tag == theirs.tag
    shared = {"name", "tests", "failures", "errors", "skipped", "time", "message", "classname"}
    for path in ("testsuite", ".//failure", ".//error", ".//skipped", ".//testcase"):
        own, other = ours.find(path), theirs.find(path)
        assert own is not None
        assert other is not None
        assert shared & {*own.keys()} == shared & {*other.keys()}, path


@pytest.mark.parametrize("bad", ["\x00", "\x1b[31m", "\x08", "\ufffe", "\uffff", "\udce9", "\x7f"])
def test_characters_that_xml_cannot_hold_are_escaped(bad: str) -> None:
    name = f"a{bad}b"
    case = JUnitCase(name, name, "failure", name, [f"<{name}>"])
    text = report(case, text=f"{name}\n&{name}").xml()
    assert junit_schema.problems(text) == []
    escaped = ElementTree.fromstring(text.encode()).find(".//testcase")
    assert escaped is not None
    assert escaped.get("name") == f"a{repr(bad)[1:-1]}b"


@click.command()
@guarded
@junit_option("command")
@click.option("--json", "json_path")
@click.option("--how", default="right")
def command(junit: JUnit, how: str, json_path: str | None) -> None:
    """Nothing."""
    if how == "bad":
        raise BadArtifact("model.onnx is broken", hint="set `how`")
    if how == "bug":
        raise ZeroDivisionError("by zero")
    if how == "leave a trace":
        Path("trace").touch()
    junit.add([JUnitCase("a", "b", "failure" if how == "wrong" else "passed", how, [how])])
    if how == "wrong":
        raise GateFailed("the verdict is SLOWER")
    if json_path:
        raise SystemExit(3)


def call(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        ((), 0, {"a": "passed"}),
        (("--how", "wrong"), 1, {"a": "failure"}),
        (("--how", "bad"), 4, {"command": "error"}),
        (("--how", "bug"), 70, {"command": "error"}),
        (("--json", "x"), 3, {"a": "passed"}),
    ],
)
def test_the_report_is_written_whatever_happens(
    tmp_path: Path, arguments: tuple[str, ...], code: int, expected: dict[str, str]
) -> None:
    path = tmp_path / "folder" / "junit.xml"
    done = call("--junit", str(path), *arguments)
    assert done.exit_code == code
    assert outcomes(path) == expected
    assert {each.name for each in path.parent.iterdir()} == {"junit.xml"}
    if "bad" in arguments:
        (error,) = ElementTree.parse(path).iter("error")
        assert error.get("message") == "model.onnx is broken; set --how"


def test_a_report_of_an_earlier_call_is_replaced_by_an_error(tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    call("--junit", str(path))
    assert outcomes(path) == {"a": "passed"}
    call("--junit", str(path), "--how", "bad")
    assert outcomes(path) == {"command": "error"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--junit", "-"), 2, "--junit needs a file; only --json can go to stdout"),
        (("--junit", "x", "--json", "x"), 2, "--junit needs a separate file"),
        (("--junit", "."), 2, "is a directory"),
        (("--junit", "file/x"), 3, "cannot write file/x"),
    ],
)
def test_a_report_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    done = call(*arguments, "--how", "leave a trace")
    assert (done.exit_code, words in done.stderr) == (code, True), done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


# ---- resnext-parity

GOOD = np.random.default_rng(0).normal(size=(8, 10)).astype(np.float64)


def names(cases: list[JUnitCase]) -> dict[str, str]:
    return {case.name: case.outcome for case in cases}


def test_each_limit_and_kind_of_input_is_a_case() -> None:
    passed = names([*cases_of_parity(compare(GOOD, GOOD.astype(np.float32)), "ort.model")])
    assert {*passed.values()} == {"passed"}
    assert {"parity", "limit max_error", "limit min_cosine", "input images"} <= {*passed}
    shifted = compare(GOOD, (GOOD + 0.01).astype(np.float32))
    failed = names([*cases_of_parity(shifted, "ort.model")])
    assert failed["parity"] == failed["limit max_error"] == failed["input images"] == "failure"
    assert failed["limit top1"] == "passed"


@pytest.mark.parametrize(
    "wrong", [GOOD[:7].astype(np.float32), GOOD, np.full((8, 10), np.nan, np.float32)]
)
def test_a_comparison_that_fails_without_a_limit_is_a_failure(wrong: np.ndarray) -> None:
    outcome = compare(GOOD, wrong)
    assert not outcome.passed
    assert names([*cases_of_parity(outcome, "ort.model")])["parity"] == "failure"


def test_an_input_at_which_the_precision_overflows_is_skipped() -> None:
    outcome = compare(GOOD, GOOD.astype(np.float32))
    (kind,) = outcome.inputs
    left_out = kind.model_copy(update={"name": "huge", "left_out": 1, "max_error": None})
    infinite = left_out.model_copy(update={"name": "large", "left_out": 0, "finite": False})
    more = names([*cases_of_parity(outcome.with_inputs([left_out, infinite], ["NaN"]), "x")])
    assert (more["input huge"], more["input large"]) == ("skipped", "failure")


def test_each_law_and_each_picture_is_a_case() -> None:
    law = Law(
        law="size", batches=(1, 2), worst=0.0, batch=2, row=1, limit=1e-5, failed=(), failure=""
    )
    broken = law.model_copy(update={"law": "stale", "failure": "batch 2 differs"})
    integrity = Integrity(
        passed=False,
        failures=("batch 2 differs",),
        laws=(law, broken),
        backend="ort-cpu",
        quick=False,
        rounding=None,
        noise=0.0,
        contrast=None,
    )
    assert names([*cases_of_integrity(integrity, "x")]) == {
        "batch-size": "passed",
        "batch-stale": "failure",
    }
    pixels = PixelComparison(
        same=False,
        exact=False,
        pictures=(
            PictureDifference(name="odd", largest=0.4, mean=0.1, allowed=0.5),
            PictureDifference(name="even", largest=9.0, mean=1.0, allowed=0.5),
        ),
        mistakes=(Mistake(code="channels: bgr", message="channels are B, G, R"),),
    )
    assert names([*cases_of_pixels(pixels, "x")]) == {
        "pixels": "failure",
        "picture odd": "passed",
        "picture even": "failure",
        "mistake channels: bgr": "failure",
    }


def test_parity_writes_a_report_of_an_artifact(tmp_path: Path) -> None:
    path = tmp_path / "parity.xml"
    words = ["--artifact", str(EARLIER / "onnx-fp32"), "--backend", "ort-cpu", "--junit", str(path)]
    weights = ["--weights", str(EARLIER / "tiny.safetensors")]
    done = CliRunner().invoke(parity, [*words, *weights])
    assert done.exit_code == 0, done.output
    cases = outcomes(path)
    assert {*cases.values()} <= {"passed", "skipped"}
    assert {"parity", "limit max_error", "input seeded"} <= {*cases}, cases
    (case, *_) = ElementTree.parse(path).iter("testcase")
    assert case.get("classname") == "ort-cpu.onnx-fp32"
    assert "max error" in (ElementTree.parse(path).findtext(".//system-out") or "")
    assert CliRunner().invoke(parity, [*words, "--batch-integrity"]).exit_code == 0
    assert outcomes(path)["batch-neighbor"] == "passed"
    moved = CliRunner().invoke(parity, [*words, "--weights", "none.safetensors"])
    assert moved.exit_code == 4
    assert outcomes(path) == {"resnext-parity": "error"}
