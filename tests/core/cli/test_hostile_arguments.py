"""Whatever the arguments of a command are: one line, an exit code of the tree, and no traceback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commands import COMMANDS, MODULES
from fakes.ceilings import plant
from resnext_export.doctor import checkup
from resnext_export.doctor.checkup import CHECKS

#: What no command can use, so that none begins to work.
HOSTILE = (
    "nowhere",
    "nowhere.pth",
    "fifo",
    "fifo.pth",
    "fifo.safetensors",
    "zero.safetensors",
    "folder",
    "folder.pth",
    "text.pth",
    "text.safetensors",
    "text.onnx",
    "pictures",
    "deep",
    "x" * 300,
    "y/" * 2500 + "z.pth",
    "\udcff",
    "a\nb",
    "a\x1b[31m.pth",
    "/proc/self/mem",
    "/dev/null",
    "~nobody-of-that-name/x",
    "seeded:x",
    "seeded:-1",
    "seeded:",
    "",
    "-",
    " ",
)
#: These decide whether a command has anything to work on.
SUBJECTS = {"spec", "weights", "artifact", "path", "images", "onnx"}
# An argument of a process holds no zero byte.
texts = st.text(max_size=12).filter(lambda text: not {"/", "\0"} & set(text) and ".." not in text)
numbers = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["1" * 5000, "٣", "1e999", "-0", "0x10", "1,1", "1:2:3", "8x8", "fp16", "int8"]
    ),
)


def values(parameter: click.Parameter) -> st.SearchStrategy[str]:
    """Values for one parameter, most of them wrong."""
    if parameter.name in SUBJECTS:
        return st.sampled_from(HOSTILE)
    known = getattr(parameter.type, "choices", None) or getattr(parameter.type, "_registered", ())
    right = st.sampled_from(sorted(map(str, known))) if known else numbers
    return st.one_of(right, numbers, texts, st.sampled_from(HOSTILE))


@st.composite
def argument_lists(draw: st.DrawFn, command: click.Command) -> list[str]:
    """Arguments of ``command``; its subjects are always there, and never usable."""
    words: list[str] = []
    for parameter in command.get_params(click.Context(command)):
        if parameter.name in ("debug", "help"):
            continue
        needed = parameter.name in SUBJECTS and not (
            parameter.name in ("artifact", "onnx") and draw(st.booleans())
        )
        if not needed and draw(st.integers(0, 4)) != 0:
            continue
        if isinstance(parameter, click.Argument):
            words += (
                ["--", draw(values(parameter))]
                if draw(st.booleans())
                else [draw(values(parameter))]
            )
        elif isinstance(parameter, click.Option) and parameter.is_flag:
            words.append(draw(st.sampled_from([*parameter.opts, *parameter.secondary_opts])))
        else:
            flag = max(parameter.opts, key=len)
            words = [f"{flag}={draw(values(parameter))}", *words]
    return words


@pytest.fixture(scope="module", autouse=True)
def _nowhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder with files that are not what they seem."""
    folder = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("fifo", "fifo.pth", "fifo.safetensors"):
            os.mkfifo(name)
        Path("zero.safetensors").symlink_to("/dev/zero")
        for name in ("text.pth", "text.safetensors", "text.onnx"):
            Path(name).write_text("this is no model")
        for name in ("folder", "folder.pth", "pictures", "deep"):
            Path(name).mkdir()
        Path("deep/manifest.json").write_text("[" * 100_000)
        os.mkfifo("pictures/a.png")
        plant(patch)  # measuring takes ten seconds each time
        quick = {name: CHECKS[name] for name in ("interpreter", "variables")}
        patch.setattr(checkup, "CHECKS", quick)  # running every runtime takes a minute
        yield


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.timeout(120)
def test_whatever_the_arguments_a_command_ends_in_one_line(name: str) -> None:
    command = COMMANDS[name]

    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(argument_lists(command))
    def end(words: list[str]) -> None:
        outcome = CliRunner().invoke(command, words, prog_name="command")
        assert isinstance(outcome.exception, SystemExit | None), (words, outcome.exception)
        assert outcome.exit_code in (0, 1, 2, 3, 4), (words, outcome.output)
        assert "Traceback" not in outcome.output
        assert "--debug shows where" not in outcome.stderr, (words, outcome.stderr)
        if outcome.exit_code:
            errors = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
            assert len(errors) == 1, (words, outcome.stderr)
            assert all(line.isprintable() for line in outcome.stderr.split("\n")), words

    end()


def test_every_command_is_there() -> None:
    wanted: Any = {
        *MODULES,
        *(f"resnext_export.cli.export {word}" for word in ("inspect", "check-trt", "refit")),
    }
    assert wanted <= COMMANDS.keys()
