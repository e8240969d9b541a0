"""Help texts and public names use the words of docs/concepts/glossary.md."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import pytest

import resnext
import resnext_bench
import resnext_export
from resnext.cli.batch import main as batch
from resnext.cli.classify import main as classify
from resnext.cli.parity import main as parity
from resnext_bench.cli.bench import main as bench
from resnext_export.cli.export import main as export

GLOSSARY = Path(__file__).parents[2] / "docs" / "concepts" / "glossary.md"
COMMANDS: Mapping[str, click.Command] = {
    "resnext-export": export,
    "resnext-bench": bench,
    "resnext-parity": parity,
    "resnext-classify": classify,
    "resnext-batch": batch,
}
#: Words that the glossary replaces in one sense and that are right in another.
OTHER_SENSES = {
    "export": "the verb, and the name of a command",
    "kind": "of a machine",
    "images": "the images themselves; their number is a count",
    "dtype": "the element type of one tensor",
}
#: Help texts with a replaced word. The list only gets shorter: an entry that is right fails.
NOT_YET: set[tuple[str, str]] = set()


def replaced(markdown: str) -> dict[str, str]:
    """Each word of the "not called" column, with the term to use; terms themselves are allowed."""
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in markdown.splitlines()
        if line.startswith("|")
    ]
    rows = [(row[0], row[2]) for row in cells[2:] if len(row) == 3]
    terms = {term.strip() for names, _ in rows for term in names.split(",")}
    words = {
        re.sub(r"\s*\(.*\)", "", word).strip(): term
        for term, others in rows
        for word in re.split("[,;]", others)
    }
    return {word: term for word, term in words.items() if word and word not in terms}


def wrong(text: str, words: Mapping[str, str]) -> list[str]:
    """Replaced words that ``text`` uses, also in the plural."""
    return [word for word in words if re.search(rf"\b{re.escape(word)}s?\b", text, re.IGNORECASE)]


def help_texts(name: str, command: click.Command) -> Iterator[tuple[str, str]]:
    """A command's own help, its options' and its subcommands'."""
    yield name, command.help or ""
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield f"{name} {parameter.opts[0]}", parameter.help or ""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None
            yield from help_texts(f"{name} {child}", found)


@pytest.fixture(scope="module")
def words() -> dict[str, str]:
    found = replaced(GLOSSARY.read_text())
    assert set(OTHER_SENSES) <= set(found)
    return {word: term for word, term in found.items() if word not in OTHER_SENSES}


def test_the_glossary_replaces_words(words: dict[str, str]) -> None:
    assert (words["flavour"], words["fix"], words["cell"]) == ("library", "hint", "case")
    assert not {"parity", "accuracy", "variant", ""} & set(words)


def test_help_texts_use_the_words_of_the_glossary(words: dict[str, str]) -> None:
    found = {
        (where, word)
        for name, command in COMMANDS.items()
        for where, text in help_texts(name, command)
        for word in wrong(text, words)
    }
    assert found - NOT_YET == set()
    assert NOT_YET - found == set(), "put right: take it out of the list"


@pytest.mark.parametrize("package", [resnext, resnext_export, resnext_bench])
def test_public_names_use_the_words_of_the_glossary(package: object, words: dict[str, str]) -> None:
    names: list[str] = getattr(package, "__all__", [])
    spelled = {name: re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", name) for name in names}
    assert {name: wrong(text, words) for name, text in spelled.items() if wrong(text, words)} == {}


def test_a_planted_word_is_seen(words: dict[str, str]) -> None:
    command = click.Command(
        "x", help="Of every cell.", params=[click.Option(["--a"], help="Fixes")]
    )
    group = click.Group(
        "g", commands={"x": click.Command("x", help="Node by node; a perfect fit.")}
    )
    for planted, expected in (
        (command, [("x", ["cell"]), ("x --a", [])]),
        (group, [("x", []), ("x x", ["node by node"])]),
    ):
        assert [(at, wrong(text, words)) for at, text in help_texts("x", planted)] == expected
    assert wrong("Engine flavours", words) == ["flavour"]
