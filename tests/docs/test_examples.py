"""The code blocks of README and docs run in order, one folder for each page, or say why they can't.

A comment directly above a block may say (several are separated by commas):

    not run: REASON
    exhaustive          it takes long
    exit 4              the exit code that the page is about
    benchmark           it measures, and a busy test machine may be too unsteady for that
    hub                 it fetches timm's resnext50_32x4d.a1h_in1k: seeded weights, from here
    output              above a ``text`` block: the output of the block before, with ``...`` for the
                        parts that differ from run to run
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import PIL.Image
import pytest
import safetensors.torch

from exported import seeded_resnext50
from fakes.hub_server import serving

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])

RUNNERS = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
NOTE = re.compile(r"not run: .{10,}|output||((exhaustive|exit [1-9]\d*|benchmark|hub)(, (?!$)|$))+")

_BLOCK = re.compile(
    r"(?:^<!-- (?P<note>[^>]*) -->\n)?^```(?P<language>.*)\n(?P<text>(?:.*\n)*?)^```$", re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: after the opening fence; ``text`` is no code.
        text: its lines.
        line: of the opening fence, from 1.
        note: of the comment directly above, or nothing.
    """

    language: str
    text: str
    line: int
    note: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """The parts of the note."""
        return tuple(self.note.split(", "))

    @property
    def exit_code(self) -> int:
        """The exit code that the page is about."""
        return next(
            (int(note.removeprefix("exit ")) for note in self.notes if note.startswith("exit ")), 0
        )

    @property
    def not_run(self) -> str | None:
        """The reason why the block does not run, or None if it does."""
        return (
            self.note.removeprefix("not run:").strip() if self.note.startswith("not run:") else None
        )


def blocks(markdown: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [
        Block(
            match["language"].strip(),
            match["text"],
            markdown.count("\n", 0, match.start("language")) + 1,
            (match["note"] or "").strip(),
        )
        for match in _BLOCK.finditer(markdown)
    ]


PARSED = {
    path.relative_to(ROOT).as_posix(): blocks(path.read_text(encoding="utf-8")) for path in PAGES
}


def runs(block: Block) -> bool:
    return block.language in RUNNERS and block.not_run is None


def quick(page_blocks: list[Block]) -> bool:
    return any(runs(block) and "exhaustive" not in block.notes for block in page_blocks)


def long(page_blocks: list[Block]) -> bool:
    return any(runs(block) and "exhaustive" in block.notes for block in page_blocks)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PARSED if quick(PARSED[page])])
def test_the_examples_of_a_page_run(page: str, tmp_path: Path) -> None:
    run_page(PARSED[page], tmp_path, exhaustive=False)


@pytest.mark.exhaustive
@pytest.mark.parametrize("page", [page for page in PARSED if long(PARSED[page])])
def test_all_examples_of_a_page_run(page: str, tmp_path: Path) -> None:
    run_page(PARSED[page], tmp_path)


@pytest.mark.parametrize("page", PARSED)
def test_a_block_that_does_not_run_says_why(page: str) -> None:
    for block in PARSED[page]:
        where = f"{page}:{block.line}"
        assert block.language, f"{where}: name the block's language; text for what is no code"
        assert NOTE.fullmatch(block.note), (
            f"{where}: {block.note!r} says nothing that this test knows"
        )
        if block.language not in (*RUNNERS, "text"):
            assert block.not_run, (
                f"{where}: nothing runs {block.language}; above it: <!-- not run: REASON -->"
            )


def test_blocks_that_do_not_run_are_few() -> None:
    waiting = [
        f"{page}:{block.line}: {block.not_run}"
        for page, page_blocks in PARSED.items()
        for block in page_blocks
        if block.not_run is not None
    ]
    every = [block for page_blocks in PARSED.values() for block in page_blocks]
    running = sum(block.language in RUNNERS and block.not_run is None for block in every)
    print("\n".join(waiting))  # noqa: T201  # pytest -s lists them
    assert len(waiting) < running, "most examples must run:\n" + "\n".join(waiting)


def run_page(page_blocks: list[Block], folder: Path, *, exhaustive: bool = True) -> None:
    """Run the blocks in ``folder``, where ``digit.png`` and ``photo.jpg`` are pictures.

    Raises:
        AssertionError: other exit code or output than the page says; names the block's line.
    """
    [picture] = ROOT.glob("resnext/**/shipped/images/digits/3_3.png")
    shutil.copy(picture, folder / "digit.png")
    PIL.Image.radial_gradient("L").convert("RGB").resize((400, 300)).save(folder / "photo.jpg")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # The checkout's own packages, whatever is installed beside the commands.
    sources = os.pathsep.join(map(str, (ROOT, ROOT / "export", ROOT / "benchmarks")))
    environment = os.environ | {
        "PATH": path,
        "PYTHONPATH": sources,
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }
    with ExitStack() as stack:
        if exhaustive and any("hub" in block.notes for block in page_blocks):
            hub = stack.enter_context(serving())
            hub.add("timm/resnext50_32x4d.a1h_in1k", timm_files())
            environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hub")}
        _run_blocks(page_blocks, folder, environment, exhaustive=exhaustive)


def timm_files() -> dict[str, bytes]:
    """What timm's repository of resnext50_32x4d.a1h_in1k has, with seeded weights."""
    tensors = {name: value.contiguous() for name, value in seeded_resnext50().state_dict.items()}
    config = {"architecture": "resnext50_32x4d", "num_classes": 1000}
    return {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": safetensors.torch.save(tensors),
    }


def _run_blocks(
    page_blocks: list[Block], folder: Path, environment: dict[str, str], *, exhaustive: bool
) -> None:
    printed: str | None = None
    for block in page_blocks:
        if block.note == "output":
            if printed is None:
                continue  # of a block that did not run this time
            assert agrees(block.text, printed), (
                f"line {block.line}: the page says\n{block.text}\nand it is\n{printed}"
            )
        elif not runs(block) or ("exhaustive" in block.notes and not exhaustive):
            printed = None if block.language in RUNNERS else printed
        else:
            command = [*RUNNERS[block.language], block.text]
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            code, printed = done.returncode, done.stdout + done.stderr
            unsteady = "benchmark" in block.notes and code == 1 and "was not steady" in printed
            assert code == block.exit_code or unsteady, f"line {block.line}: exit {code}\n{printed}"


def agrees(expected: str, printed: str) -> bool:
    """Whether ``expected`` was printed; ``...`` stands for anything, also for whole lines."""
    pattern = re.escape(expected.rstrip("\n")).replace(re.escape("..."), ".*?")
    return (
        re.search(pattern, "\n".join(line.rstrip() for line in printed.splitlines()), re.DOTALL)
        is not None
    )


# ---- planted faults


def page(*lines: str) -> list[Block]:
    return blocks("\n".join(lines) + "\n")


def test_a_failing_block_fails_the_page_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="line 5: exit 3"):
        run_page(page("```sh", "true", "```", "", "```sh", "false | exit 3", "```"), tmp_path)


def test_a_command_that_fails_in_the_middle_of_a_block_fails_it(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="exit 1"):
        run_page(page("```sh", "false", "true", "```"), tmp_path)


def test_a_block_that_should_fail_and_does_not_fails_the_page(tmp_path: Path) -> None:
    planted = page("<!-- exit 4 -->", "```sh", "exit 4", "```")
    run_page(planted, tmp_path)
    with pytest.raises(AssertionError, match="exit 0"):
        run_page(page("<!-- exit 4 -->", "```sh", "true", "```"), tmp_path)


def test_other_output_than_the_page_shows_fails_it(tmp_path: Path) -> None:
    good = (
        "```python",
        "print('one'); print('two 2')",
        "```",
        "",
        "<!-- output -->",
        "```text",
        "one",
        "two ...",
        "```",
    )
    run_page(page(*good), tmp_path)
    with pytest.raises(AssertionError, match="the page says"):
        run_page(page(*good[:-2], "three", "```"), tmp_path)


def test_only_an_unsteady_machine_excuses_a_benchmark(tmp_path: Path) -> None:
    run_page(
        page("<!-- benchmark -->", "```sh", "echo the machine was not steady; exit 1", "```"),
        tmp_path,
    )
    with pytest.raises(AssertionError, match="exit 1"):
        run_page(page("<!-- benchmark -->", "```sh", "echo wrong output; exit 1", "```"), tmp_path)


def test_blocks_share_the_folder_of_their_page_and_skip_what_says_so(tmp_path: Path) -> None:
    planted = page(
        "```sh",
        "echo 1 > kept",
        "```",
        "<!-- not run: it would fail, which is the point -->",
        "```sh",
        "exit 1",
        "```",
        "```python",
        "assert open('kept').read() == '1\\n'",
        "```",
    )
    assert [block.not_run is None for block in planted] == [True, False, True]
    run_page(planted, tmp_path)
