"""A library names fields; only a command knows what its flags are called."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Flags, and commands of this toolkit.
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*|\bresnext-(?:export|bench|parity|classify|batch)\b")
#: Scripts with a command line of their own, the options of pytest, modules that call other programs
#: with flags, and modules whose output is commands.
NO_LIBRARY = {
    "benchmarks/resnext_bench/tune/commands.py",
    "benchmarks/resnext_bench/tune/recipes.py",
    "benchmarks/resnext_bench/crosscheck/trtexec.py",
    # starts the benchmark's command
    "benchmarks/resnext_bench/fleet/cells.py",
    "resnext/weights/shipped/train.py",
    "resnext/runtimes/pt2/toolchain.py",
    "resnext/testing/pytest_plugin.py",
    "export/resnext_export/triton/server.py",
    # spells a request as the command that makes it
    "export/resnext_export/command.py",
}


def library() -> list[Path]:
    """Every module outside the command lines."""
    return [
        path
        for folder in ("resnext", "export/resnext_export", "benchmarks/resnext_bench")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "cli" not in path.relative_to(ROOT).with_suffix("").parts
        and path.relative_to(ROOT).as_posix() not in NO_LIBRARY
    ]


def flags(source: str) -> Iterator[str]:
    """Flags and commands in the strings of a module, docstrings excepted."""
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from FLAG.findall(node.value) if id(node) not in docstrings else ()


def test_no_library_message_names_a_flag() -> None:
    named = {
        path.relative_to(ROOT).as_posix(): found
        for path in library()
        if (found := list(flags(path.read_text())))
    }
    assert named == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('raise X(f"{path} is full; choose another --output")', ["--output"]),
        ('hint = "make it with resnext-export"', ["resnext-export"]),
        ('def f():\n    """Adds ``--json``."""\n    return "a -- b, x--y, `json`"', []),
        ('"""--module"""\nx = "--flag"', ["--flag"]),
    ],
)
def test_a_planted_flag_is_seen(source: str, found: list[str]) -> None:
    assert list(flags(source)) == found
