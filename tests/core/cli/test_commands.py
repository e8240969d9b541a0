from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from resnext import errors
from resnext.cli.app import as_flags, guarded
from resnext.cli.batch import main as batch
from resnext.cli.classify import main as classify
from resnext.cli.options import chosen_weights
from resnext.cli.parity import main as parity
from resnext.cli.sections import SectionedCommand, option_of
from resnext.errors import ResnextError
from resnext.network.config import VARIANTS
from resnext.runtimes.registry import ARTIFACT_RUNTIMES, RUNTIMES
from resnext_bench.cli.bench import main as bench
from resnext_export.cli.export import main as export

MODULES = {
    "resnext-export": "resnext_export.cli.export",
    "resnext-bench": "resnext_bench.cli.bench",
    "resnext-parity": "resnext.cli.parity",
    "resnext-classify": "resnext.cli.classify",
    "resnext-batch": "resnext.cli.batch",
}
COMMANDS: dict[str, click.Command] = {
    "resnext-export": export,
    "resnext-bench": bench,
    "resnext-parity": parity,
    "resnext-classify": classify,
    "resnext-batch": batch,
}


def process(command: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **settings}
    return subprocess.run(
        [sys.executable, "-m", MODULES[command], *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


def call(command: str, *arguments: str) -> Result:
    return CliRunner().invoke(COMMANDS[command], arguments, prog_name=command)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_of_the_command_itself(command: str) -> None:
    done = process(command, "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    _, heading, examples = done.stdout.partition("Examples:\n")
    assert heading
    assert examples.count(f"{command} ") >= 3
    assert "--debug" in done.stdout


#: Headings of each command's help; the options that every command has come last.
SECTIONS = {
    "resnext-export": [
        "Network",
        "Preprocessing",
        "Precision",
        "Engine (--format trt, trt-rtx)",
        "Package (--format pt2)",
        "Repository (--format triton, kserve)",
        "Output",
        "Options",
        "Commands",
    ],
    "resnext-export check-trt": ["Engine", "Output", "Options"],
    "resnext-export check-triton": ["Server", "Output", "Options"],
    "resnext-export doctor": ["Output", "Options"],
    "resnext-export explain": ["What to run", "Network", "Output", "Trust", "Options"],
    "resnext-export inspect": ["What to run", "Requirements", "Output", "Options"],
    "resnext-export rebuild": ["Spread", "Output", "Trust", "Options"],
    "resnext-export refit": ["Network", "Output", "Options"],
    "resnext-export sign": ["Key", "Output", "Options"],
    "resnext-export tune": [
        "Goal",
        "What to run",
        "Network",
        "Preprocessing",
        "Measuring",
        "Device",
        "Accuracy and calibration",
        "Output",
        "Options",
    ],
    "resnext-export verify": ["Key", "Output", "Options"],
    "resnext-bench": [
        "What to run",
        "Network",
        "Preprocessing",
        "Measuring",
        "Device",
        "Accuracy and calibration",
        "Serving",
        "Output",
        "Trust",
        "Options",
        "Commands",
    ],
    "resnext-bench limits": ["Network", "Device", "Output", "Options"],
    "resnext-bench page": ["Output", "Options"],
    "resnext-bench lens": ["What to run", "Network", "Device", "Output", "Trust", "Options"],
    "resnext-bench ab": [
        "What to run",
        "Network",
        "Measuring",
        "Device",
        "Verdict",
        "Output",
        "Options",
    ],
    "resnext-bench compare": ["What to compare with", "Verdict", "Output", "Options"],
    "resnext-bench history": ["What to run", "Output", "Options", "Commands"],
    "resnext-bench history gate": ["Verdict", "Output", "Options"],
    "resnext-bench plan": [
        "What to run",
        "Network",
        "Preprocessing",
        "Measuring",
        "Device",
        "Accuracy and calibration",
        "Serving",
        "Trust",
        "Placing",
        "Output",
        "Options",
    ],
    "resnext-bench run-cells": ["What to run", "Output", "Options"],
    "resnext-bench merge": ["Output", "Options"],
    "resnext-bench crosscheck": ["What to run", "Measuring", "Output", "Trust", "Options"],
    "resnext-parity": [
        "What to run",
        "What to compare with",
        "Output",
        "Trust",
        "Options",
        "Commands",
    ],
    "resnext-parity verify": ["Output", "Trust", "Options"],
    "resnext-classify": ["What to run", "Network", "Preprocessing", "Output", "Trust", "Options"],
    "resnext-batch": ["What to run", "Output", "Speed", "Trust", "Options"],
}


@pytest.mark.parametrize("command", SECTIONS)
def test_help_has_sections_and_examples(command: str) -> None:
    name, *subcommand = command.split()
    text = call(name, *subcommand, "--help").stdout
    assert re.findall(r"^(\S.*):$", text, re.MULTILINE) == SECTIONS[command]
    _, _, rest = text.partition("\nOptions:\n")
    shared = {"--version", "--debug", "--help", "--list-models", "--list-weights"}
    assert set(re.findall(r"^  (?:-h, )?(--[\w-]+|[A-Z]{2,})", rest, re.MULTILINE)) <= shared
    _, _, examples = text.partition("Examples:\n")
    assert examples.count(f"  {command} ") >= 2


def test_an_option_without_a_section_comes_last_and_an_argument_has_no_line() -> None:
    @click.command(cls=SectionedCommand)
    @click.argument("path")
    @click.option("--plain", help="Nothing special.")
    @option_of("First")("--special", help="In a section.")
    def command(**_: object) -> None:
        """Nothing."""

    text = CliRunner().invoke(command, ["--help"]).stdout
    words = [line.split()[0] for line in text.splitlines() if line.strip()]
    assert words == ["Usage:", "Nothing.", "First:", "--special", "Options:", "--plain", "--help"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_answers_in_under_three_tenths_of_a_second(command: str) -> None:
    took = []
    for _ in range(5):
        began = processor_s()
        process(command, "--help")
        took.append(processor_s() - began)
    assert min(took) < 0.3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_an_output_that_cannot_be_written_is_the_environments_fault() -> None:
    command = [sys.executable, "-m", "resnext_export.cli.export", "--list-models"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3
    assert "No space left" in done.stderr.splitlines()[0]


def processor_s() -> float:
    """Processor time of the processes started so far, seconds: other tests run beside this one, on
    the same clock.
    """
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("command", COMMANDS)
def test_help_and_wrong_options_load_no_framework(command: str) -> None:
    for argument in ("--help", "--version", "--no-such-option"):
        done = process(command, argument, PYTHONPROFILEIMPORTTIME="1")
        loaded = {
            line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()
        }
        assert "click" in loaded
        assert (
            loaded
            & {"torch", "onnx", "onnxruntime", "numpy", "pydantic", "scipy", "PIL", "safetensors"}
            == set()
        )


@pytest.mark.parametrize("command", COMMANDS)
def test_each_option_of_an_example_exists(command: str) -> None:
    group = COMMANDS[command]
    lines = (group.epilog or "").splitlines()
    used = 0
    for line in lines:
        words = line.split("|")[0].split()
        called: click.Command | None = group
        if isinstance(group, click.Group) and len(words) > 1:
            called = group.get_command(click.Context(group), words[1]) or group
        assert called is not None
        options = {
            text
            for parameter in called.get_params(click.Context(called))
            for text in parameter.opts + parameter.secondary_opts
        }
        asked = {word.strip("[],") for word in words if word.startswith("--")}
        assert asked <= options, line
        used += len(asked)
    assert used


@pytest.mark.parametrize("command", COMMANDS)
def test_the_version_is_told(command: str) -> None:
    from resnext.version import __version__

    assert call(command, "--version").output == f"{command}, version {__version__}\n"


def test_names_of_backends_are_those_of_the_registry() -> None:
    for command, registry in (("resnext-bench", RUNTIMES), ("resnext-parity", ARTIFACT_RUNTIMES)):
        done = call(command, "--artifact", "x", "--backend", "nothing")
        assert ", ".join(registry) in done.stderr, command
        assert ("torch-folded" in done.stderr) == (registry is RUNTIMES)


# ---- errors

#: Call, exit code, and what the one line on stderr must say.
ERRORS: list[tuple[tuple[str, ...], int, tuple[str, ...]]] = [
    (("resnext-export",), 2, ("--format",)),
    (("resnext-export", "--format", "onx"), 2, ("unknown format 'onx'", "did you mean 'onnx'?")),
    (
        ("resnext-export", "--format", "onnx", "--model", "resnext50_32x4"),
        2,
        ("unknown model 'resnext50_32x4'", "did you mean 'resnext50_32x4d'?", *VARIANTS),
    ),
    (
        ("resnext-export", "--format", "onnx", "--precision", "fp12"),
        2,
        ("unknown precision 'fp12'", "fp32"),
    ),
    (("resnext-export", "--format", "onnx", "--batch", "0"), 2, ("batch '0'",)),
    (("resnext-export", "--format", "onnx", "--batch", "8:1"), 2, ("MIN <= OPT",)),
    (
        ("resnext-export", "--format", "onnx", "--weights", "digit"),
        2,
        ("weights 'digit'", "digits", "seeded[:N]"),
    ),
    (
        ("resnext-export", "--format", "onnx", "--weights", "digits", "--model", "resnet50"),
        2,
        ("'digits'",),
    ),
    (
        ("resnext-export", "--format", "onnx", "--weights", "none.pth"),
        4,
        ("no weights file at none.pth",),
    ),
    (("resnext-export", "--format", "onnx", "--weights", "seeded:x"), 2, ("seed",)),
    (("resnext-export", "--format", "onnx", "--input-size", "big"), 2, ("'big'", "224x224")),
    (("resnext-export", "--format", "onnx", "--input-size", "²x3"), 2, ("'²x3'", "224x224")),
    (("resnext-export", "--format", "onnx", "--input-size", "0x0"), 2, ("--input-size must",)),
    (("resnext-export", "--format", "onnx", "--input-size", "16"), 2, ("too small", "at least 32")),
    (("resnext-export", "--format", "onnx", "--num-classes", "0"), 2, ("--num-classes",)),
    (
        ("resnext-export", "--format", "onnx", "--output", "file/out"),
        3,
        ("cannot write", "--output"),
    ),
    (("resnext-export", "--format", "onnx", "--output", "full"), 2, ("not empty", "another --out")),
    (("resnext-export", "--format", "onnx", "--output", "full", "--force"), 2, ("other files",)),
    (("resnext-export", "--formt", "onnx"), 2, ("--formt",)),
    (("resnext-bench",), 2, ("--backend",)),
    (
        ("resnext-bench", "--backend", "trot"),
        2,
        ("unknown backend 'trot'", "did you mean", "torch-compile"),
    ),
    (
        ("resnext-bench", "--backend", "torch,orrt"),
        2,
        ("unknown backend 'orrt'", "did you mean 'ort'?"),
    ),
    (("resnext-bench", "--backend", "torch", "--batch", "0"), 2, ("at least 1",)),
    (("resnext-bench", "--backend", "torch", "--batch", "1,x"), 2, ("'1,x'",)),
    (("resnext-bench", "--backend", "torch", "--duration", "0"), 2, ("--duration",)),
    (
        ("resnext-bench", "--backend", "ort", "--artifact", "none"),
        4,
        ("no artifact at none", "export one first"),
    ),
    (
        ("resnext-bench", "--backend", "ort", "--artifact", "none", "--model", "resnet50"),
        2,
        ("drop --model",),
    ),
    (("resnext-bench", "--backend", "torch", "--json", "file/run.json"), 3, ("cannot write",)),
    (("resnext-bench", "lens", "none"), 4, ("no artifact at none", "export one first")),
    (("resnext-bench", "lens", "none", "--weights", "digits"), 2, ("drop --model, --weights,",)),
    (
        ("resnext-bench", "lens", "--weights", "digits", "--backend", "pt2"),
        2,
        ("'pt2' does not report times of layers; use --backend torch, ",),
    ),
    (("resnext-parity",), 2, ("--artifact",)),
    (("resnext-parity", "--artifact", "none"), 4, ("no artifact at none", "export one first")),
    (("resnext-parity", "--artifact", "full"), 4, ("manifest.json",)),
    (
        ("resnext-parity", "--artifact", "none", "--backend", "oort"),
        2,
        ("unknown backend 'oort'", "'ort'"),
    ),
    (("resnext-parity", "--artifact", "none", "--batch", "0"), 2, ("--batch",)),
    (("resnext-parity", "--artifact", "none", "--images", "0"), 2, ("--images",)),
    (("resnext-parity", "verify"), 2, ("PATH",)),
    (("resnext-parity", "verify", "none"), 4, ("no artifact at none",)),
    (("resnext-parity", "--seed", "1", "verify", "none"), 2, ("options go after verify",)),
    (("resnext-export", "sign", "none"), 2, ("--key",)),
    (("resnext-export", "sign", "none", "--key", "file"), 4, ("file is not a private key",)),
    (("resnext-export", "verify", "none", "--key", "none"), 4, ("no artifact at none",)),
    (("resnext-export", "verify", "full", "--key", "none"), 4, ("cannot read none",)),
    (("resnext-classify",), 2, ("IMAGES",)),
    (("resnext-classify", "none.png", "--weights", "digits"), 4, ("no image at none.png",)),
    (("resnext-classify", "file", "--weights", "digits"), 4, ("file is not an image",)),
    (("resnext-classify", "none.png", "--artifact", "none"), 4, ("no artifact at none",)),
    (
        ("resnext-classify", "x.png", "--artifact", "none", "--weights", "digits"),
        2,
        ("own weights",),
    ),
    (
        ("resnext-classify", "none.png", "--weights", "digits", "--backend", "ort"),
        2,
        ("give --artifact",),
    ),
    (
        ("resnext-classify", "none.png", "--backend", "touch"),
        2,
        ("unknown backend 'touch'", "'torch'"),
    ),
    (("resnext-classify", "none.png", "--weights", "digits", "--top", "0"), 2, ("--top",)),
    # A hint of the library names fields; the line says them as flags.
    (("resnext-export", "--format", "onnx", "--batch", "0"), 2, ("error: --batch '0' must",)),
    (
        ("resnext-export", "--format", "onnx", "--input-size", "16"),
        2,
        ("error: --input-size 16x16 is too small",),
    ),
    (
        ("resnext-export", "--format", "onnx", "--workspace", "3"),
        2,
        ("error: --workspace is for engines: --format trt or trt-rtx\n",),
    ),
    (
        ("resnext-export", "--format", "onnx", "--calibration", "digits"),
        2,
        ("use --precision int8, or drop --calibration\n",),
    ),
    (
        ("resnext-export", "--format", "onnx", "--for", "trt"),
        2,
        ("error: --for says what an int8 graph is for", "drop --for\n"),
    ),
    (
        (
            *("resnext-export", "--format", "onnx", "--weights", "digits"),
            *("--precision", "int8", "--calibration", "photos"),
        ),
        4,
        ("error: no folder at photos; set --calibration to digits, fashion-mnist, random, or",),
    ),
    (
        ("resnext-bench", "--backend", "torch", "--weights", "digits", "--accuracy", "photos"),
        4,
        ("error: no folder at photos; set --accuracy to digits, fashion-mnist, or a folder with",),
    ),
    (
        ("resnext-bench", "--backend", "torch", "--weights", "digits", "--accuracy-images", "5"),
        2,
        ("error: --accuracy-images says how many of the images of --accuracy",),
    ),
    (
        ("resnext-bench", "--backend", "torch", "--threads", "0"),
        2,
        (
            "'--threads': '0' must be a whole number of at least 1, or several separated by commas"
            " (--help shows every option)\n",
        ),
    ),
    (("resnext-bench", "--backend", "torch", "--merge-groups", "1"), 2, ("from 2 to 4096",)),
    (("resnext-bench", "--backend", "torch", "--markdown", "file/r.md"), 3, ("cannot write",)),
    (("resnext-parity", "--artifact", "file"), 4, ("error: no manifest.json in /",)),
    (("resnext-export", "inspect", "full"), 4, ("/full; an artifact is a folder with",)),
    (("resnext-export", "inspect", "none", "--backend", "tort"), 2, ("did you mean 'trt'?",)),
    (("resnext-export", "rebuild", "none"), 4, ("error: no manifest.json in /", "/none; ")),
    (("resnext-export", "refit", "none", "--output", "o"), 4, ("error: no artifact at none; ",)),
    (("resnext-export", "check-trt", "none.onnx"), 4, ("error: no ONNX file at none.onnx\n",)),
    (("resnext-export", "explain"), 2, ("PATH|SPEC",)),
    (("resnext-export", "explain", "none.pth"), 4, ("no weights file at none.pth",)),
    (("resnext-export", "explain", "digit"), 2, ("weights 'digit'", "did you mean 'digits'?")),
    (("resnext-export", "explain", "full"), 4, ("no manifest.json in /", "/full; an artifact is")),
    (
        ("resnext-export", "explain", "digits", "--target", "h100"),
        2,
        ("error: --target 'h100' is no compute capability; write sm_89 for 8.9\n",),
    ),
    (
        ("resnext-export", "explain", "resnet50", "--target", "sm_89", "--backend", "openvino"),
        2,
        ("'openvino' does not run on GPUs, or not on them alone; drop --target, or use --backend",),
    ),
    (
        ("resnext-export", "explain", "digits", "--backend", "openvno"),
        2,
        ("did you mean 'openvino'?",),
    ),
    (
        ("resnext-export", "explain", "resnet50", "--weights-key", "ema"),
        2,
        ("resnet50 is a network without weights; drop --model and --weights-key",),
    ),
    (("resnext-export", "inpsect", "none"), 2, ("No such command 'inpsect'",)),
]


@pytest.mark.parametrize(("arguments", "code", "parts"), ERRORS, ids=lambda value: str(value)[:70])
def test_an_error_is_one_line_on_stderr_with_its_exit_code(
    elsewhere: Path, arguments: tuple[str, ...], code: int, parts: tuple[str, ...]
) -> None:
    (elsewhere / "file").write_text("not an image")
    (elsewhere / "full").mkdir()
    (elsewhere / "full" / "thesis.txt").write_text("precious")
    done = call(*arguments)
    for part in parts:
        assert part in done.stderr
    assert done.exit_code == code
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in elsewhere.rglob("*")) == ["file", "full", "thesis.txt"]


NOTHING_THERE = {
    "resnext-export": ["--format", "onnx", "--weights", "none.pth"],
    "resnext-bench": ["--backend", "ort", "--artifact", "none"],
    "resnext-parity": ["--artifact", "none"],
    "resnext-classify": ["none.png", "--artifact", "none"],
    "resnext-batch": ["none", "--artifact", "none", "--output", "made"],
}


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_process_ends_with_the_same_one_line(command: str) -> None:
    done = process(command, *NOTHING_THERE[command])
    assert done.returncode == 4
    assert done.stdout == ""
    assert done.stderr.startswith("error: no ")
    assert done.stderr.count("\n") == 1


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(each, marks=() if each == "resnext-classify" else pytest.mark.exhaustive)
        for each in COMMANDS
    ],
)
def test_a_process_tells_where_on_request(command: str) -> None:
    debugged = process(command, *NOTHING_THERE[command], "--debug")
    assert debugged.returncode != 0
    assert "Traceback (most recent call last)" in debugged.stderr
    assert debugged.stderr.splitlines()[-1].startswith("resnext.errors.Bad")


def command_that(does: Callable[[], object]) -> click.Command:
    @click.command()
    @guarded
    def main() -> None:
        does()

    return main


def raises(error: BaseException) -> Callable[[], object]:
    def does() -> None:
        raise error

    return does


def test_every_error_class_ends_with_its_own_exit_code() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, ResnextError)
        and kind is not errors.UnknownName
    ]
    assert len(kinds) >= 9
    for kind in kinds:
        done = CliRunner().invoke(command_that(raises(kind("what is wrong"))), [])
        assert (done.exit_code, done.stderr) == (kind.exit_code, "error: what is wrong\n")


def test_an_error_that_nobody_foresaw_is_one_line_too() -> None:
    broken = command_that(raises(ZeroDivisionError("two\nlines")))
    done = CliRunner().invoke(broken, [])
    assert done.exit_code == 70
    assert done.stderr == "error: unexpected ZeroDivisionError: two lines (--debug shows where)\n"
    assert isinstance(CliRunner().invoke(broken, ["--debug"]).exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            errors.UsageError("`batch` is 9", hint="use a smaller `batch`"),
            "--batch-sizes is 9; use a smaller --batch-sizes",
        ),
        (errors.BadInput("`json_path` is a folder"), "--json is a folder"),
        (errors.BadInput("give `verbose`"), "give --verbose"),
        (errors.BadInput("no `images`"), "no IMAGES"),
        (errors.BadInput("drop `merge_groups`"), "drop --merge-groups"),
        (
            errors.BadInput("`Conv 1`, `--x`, `2d` and ```` stay"),
            "`Conv 1`, `--x`, `2d` and ```` stay",
        ),
        (errors.SilentFallback("on cpu", hint="set `device`"), "on cpu; set --device"),
    ],
)
def test_a_field_in_a_message_is_the_flag_of_the_running_command(
    error: ResnextError, line: str
) -> None:
    @click.command()
    @click.argument("images")
    @click.option("-b", "--batch-sizes", "batch")
    @click.option("--json", "json_path")
    @click.option("--verbose/--quiet")
    @guarded
    def main(**_: object) -> None:
        raise error

    done = CliRunner().invoke(main, ["x"])
    assert (done.exit_code, done.stderr) == (error.exit_code, f"error: {line}\n")


def test_fields_are_flags_outside_a_command_too() -> None:
    assert as_flags("use `input_size`") == "use --input-size"


@pytest.mark.parametrize(
    ("foreign", "line"),
    [
        (ValueError("\n one\ntwo"), "one"),
        (ValueError(), "ValueError"),
        (ValueError("pass `weights_only`"), "pass 'weights_only'"),
    ],
)
def test_the_first_line_of_a_foreign_error_names_no_field_of_ours(
    foreign: Exception, line: str
) -> None:
    assert errors.first_line(foreign) == line


def test_ctrl_c_says_so_and_ends_with_130() -> None:
    done = CliRunner().invoke(command_that(raises(KeyboardInterrupt())), [])
    assert done.exit_code == 130
    assert done.stderr == "interrupted; nothing half-written was left\n"


def test_sigterm_unwinds_as_ctrl_c_does() -> None:
    import signal

    before = signal.getsignal(signal.SIGTERM)
    unwound = []

    def does() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            unwound.append(True)

    done = CliRunner().invoke(command_that(does), [])
    assert done.exit_code == 130
    assert unwound == [True]
    assert signal.getsignal(signal.SIGTERM) == before


def on_a_terminal(command: str, *arguments: str, **settings: str) -> str:
    """What ``command`` writes to stderr if that is a terminal."""
    pty = pytest.importorskip("pty", reason="needs a pseudo-terminal")
    master, slave = pty.openpty()
    environment = {
        key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")
    }
    environment |= {"TERM": "xterm-256color", **settings}
    child = subprocess.Popen(
        [sys.executable, "-m", MODULES[command], *arguments],
        stderr=slave,
        stdout=subprocess.DEVNULL,
        env=environment,
    )
    os.close(slave)
    written = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:  # the terminal's other end is closed
            break
        if not chunk:
            break
        written += chunk
    os.close(master)
    child.wait()
    return written.decode()


@pytest.mark.parametrize(
    "arguments",
    [
        ("resnext-classify", "none.png", "--artifact", "none"),
        ("resnext-parity", "--artifact", "none", "--backend", "oort"),
    ],
)
def test_no_color_is_honored_on_a_terminal(elsewhere: Path, arguments: tuple[str, ...]) -> None:
    assert "\x1b[" in on_a_terminal(*arguments)
    plain = on_a_terminal(*arguments, NO_COLOR="1")
    assert "\x1b[" not in plain
    assert plain.startswith("error: ")
    assert list(elsewhere.iterdir()) == []


# ---- what the commands share


def test_number_of_classes_and_input_size_override_the_variants() -> None:
    weights = chosen_weights("resnext11_8x4d_digits", "seeded", 4, "12x20")
    assert weights.config.num_classes == 4
    assert weights.config.input_size == (12, 20)
    assert weights.preprocessing.crop == (12, 20)
    assert chosen_weights("resnext11_8x4d_digits", "seeded", None, "9").config.input_size == (9, 9)


def test_the_list_of_models_is_json_on_stdout_alone() -> None:
    import json

    done = call("resnext-export", "--list-models", "--json", "-")
    assert done.exit_code == 0
    assert done.stderr == ""
    assert [row["model"] for row in json.loads(done.stdout)] == list(VARIANTS)
    table = call("resnext-export", "--list-models").stdout
    for name in VARIANTS:
        assert name in table


def test_the_list_of_published_weights_is_json_on_stdout_alone() -> None:
    import json

    from resnext.weights.hub.published import PUBLISHED

    done = call("resnext-export", "--list-weights", "--json", "-")
    assert (done.exit_code, done.stderr) == (0, "")
    rows = json.loads(done.stdout)
    assert [row["weights"] for row in rows] == list(PUBLISHED)
    assert {row["license"] for row in rows if not row["commercial_use"]} == {"cc-by-nc-4.0"}
    table = call("resnext-export", "--list-weights").stdout
    for spec, row in PUBLISHED.items():
        [line] = [line for line in table.splitlines() if line.startswith(f"{spec} ")]
        assert line.rstrip().endswith(row.license)
        assert f"{row.top1:.2f}" in line


@pytest.mark.parametrize("name", ["digits", "fashion-mnist"])
def test_classify_knows_the_shipped_sample_images(name: str) -> None:
    import json

    from resnext.weights.shipped import SHIPPED

    paths = sorted(SHIPPED[name].images.glob("*.png"))
    done = call(
        "resnext-classify", *map(str, paths), "--weights", name, "--json", "-", "--top", "2"
    )
    assert done.exit_code == 0
    rows = json.loads(done.stdout)
    assert [row["image"] for row in rows] == [str(path) for path in paths]
    right = sum(
        row["classes"][0]["index"] == int(path.name[0])
        for row, path in zip(rows, paths, strict=True)
    )
    assert right >= 9
    for row in rows:
        first, second = row["classes"]
        assert 1 >= first["probability"] >= second["probability"] >= 0


def test_classify_prints_a_line_for_each_image(elsewhere: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("L", (8, 8)).save(elsewhere / name)
    done = call("resnext-classify", "a.png", "b.png", "--weights", "digits", "--top", "1")
    assert done.exit_code == 0
    first, second = done.stdout.splitlines()
    assert first.startswith("a.png: ")
    assert second.startswith("b.png: ")
    assert first.endswith("%")
