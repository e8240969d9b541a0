"""Strict JSON: one meaning for every text, whichever library reads it next."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

#: Deepest nesting of arrays and objects; the files of this toolkit have about 10.
MOST_DEPTH = 64


def parse_json(text: bytes | str) -> Any:
    """The value of a JSON text.

    Args:
        text: UTF-8, if bytes.

    Raises:
        ValueError: not JSON, not UTF-8, nested deeper than `MOST_DEPTH`, an object with a repeated
            key, a number that is not finite, or half a surrogate pair; the message is one line.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=_without_repeats,
            parse_constant=_not_finite,
            parse_float=_finite,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError as exc:
        raise ValueError(f"it is not UTF-8: {exc.reason} at byte {exc.start}") from None
    level = [value]
    for _ in range(MOST_DEPTH + 1):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            if "\\u" in text:  # half a character, which no file, report or terminal can hold
                try:
                    json.dumps(value, ensure_ascii=False).encode()
                except UnicodeEncodeError:
                    raise ValueError("it is not Unicode: half a surrogate pair") from None
            return value
    raise ValueError(f"it is nested too deeply, at most {MOST_DEPTH} levels are accepted")


def is_version(value: object, version: int) -> bool:
    """Whether ``value`` is the whole number ``version``; in Python, true is equal to 1."""
    return type(value) is int and value == version


def _children(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        again = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {again[:80]!r} is repeated")
    return value


def _not_finite(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:40]} is too large for a number")
    return value
