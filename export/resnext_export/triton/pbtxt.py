"""Protobuf's text format: written readably, and the line of each field in a text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

#: Where a field is: names, each followed by its number among those of that name.
FieldPath: TypeAlias = tuple[str | int, ...]

_WIDTH = 96
_TOKEN = re.compile(
    r"""(?P<space>[\s,;]+|\#[^\n]*)
    |(?P<text>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
    |(?P<mark>[{}<>\[\]:])
    |(?P<word>[^\s,;{}<>\[\]:"'\#]+)""",
    re.VERBOSE,
)


class Word(str):
    """The name of an enumeration's value, which stands without quotation marks."""


def to_text(message: Mapping[str, Any]) -> str:
    """The text of a message. What fits on one line is written on one.

    Args:
        message: values by field: text, `Word`, number, bool, a message, or a list of these.
    """
    return "".join(f"{line}\n" for line in _lines(message, ""))


def _lines(message: Mapping[str, Any], indent: str) -> Iterator[str]:
    for name, value in message.items():
        messages = value if isinstance(value, list) else [value]
        if messages and not isinstance(messages[0], Mapping):
            yield f"{indent}{name}: {_plain(value)}"
            continue
        for each in messages:
            inner = " ".join(line.strip() for line in _lines(each, ""))
            if len(short := f"{indent}{name} {{ {inner} }}") <= _WIDTH:
                yield short
            else:
                yield f"{indent}{name} {{"
                yield from _lines(each, indent + "  ")
                yield f"{indent}}}"


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return f"[ {', '.join(map(_plain, value))} ]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and not isinstance(value, Word):
        mark = "'" if '"' in value and "'" not in value else '"'
        return mark + "".join(_escaped(each, mark) for each in value) + mark
    return str(value)


def _escaped(character: str, mark: str) -> str:
    if character in ("\\", mark):
        return "\\" + character
    if character < " " or character == "\x7f":
        return f"\\{ord(character):03o}"
    return character


def lines_of(text: str) -> dict[FieldPath, int]:
    """The line, from 1, of each field of a text that is valid; of the others, of some.

    The second ``dims`` of the first ``input`` is ``("input", 0, "dims", 1)``.
    """
    found: dict[FieldPath, int] = {}
    path: FieldPath = ()
    counts: list[Counter[str]] = [Counter()]
    opened: list[FieldPath] = []  # what to go back to behind a closing bracket
    name, line = "", 1
    for match in _TOKEN.finditer(text):
        token, kind = match[0], match.lastgroup
        if kind == "mark" and token in "{<":
            opened.append(path)
            path = (*path, name, counts[-1][name])
            counts[-1][name] += 1
            found[path] = line
            counts.append(Counter())
        elif kind == "mark" and token in "}>" and opened:
            # In a list of messages the next one has the same name.
            name, path = str(path[-2]), opened.pop()
            counts.pop()
        elif kind == "word" and re.match(r"\s*[:{<\[]", text[match.end() : match.end() + 80]):
            name = token
            found.setdefault((*path, name), line)
        elif kind in ("word", "text"):
            found[(*path, name, counts[-1][name])] = line
            counts[-1][name] += 1
        line += token.count("\n")
    return found
