"""Strict JSON, on its own and in every stored file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnext.artifact.files import Artifact, read_artifact
from resnext.errors import BadArtifact
from resnext.readers.strict_json import MOST_DEPTH, is_version, parse_json

BAD = {
    "half a character": '{"a": ["\\ud800"]}',
    "half a character in a key": '{"\\uDC00": 1}',
    "deep": "[" * 100_000,
    "deep and closed": "[" * 900 + "]" * 900,
    "a level too deep": "[" * (MOST_DEPTH + 2) + "]" * (MOST_DEPTH + 2),
    "deep objects": '{"a":' * 500 + "1" + "}" * 500,
    "repeated": '{"a": 1, "a": 1}',
    "repeated within": '[{"b": {"a": 1, "a": 2}}]',
    "repeated by escape": '{"a": 1, "\\u0061": 1}',
    "NaN": '{"a": NaN}',
    "Infinity": "[Infinity]",
    "-Infinity": "[-Infinity]",
    "too large": "[1e999]",
    "too many digits": "1" * 5000,
    "empty": "",
    "two values": "1 2",
    "control": '"\x01"',
}


@pytest.mark.parametrize("name", BAD)
def test_what_has_no_single_meaning_is_refused_in_one_line(name: str) -> None:
    for text in (BAD[name], BAD[name].encode()):
        with pytest.raises(
            ValueError,
            match=r"^it is|^the key|is not a number|too large|integer|line|Expecting|Extra|control",
        ) as caught:
            parse_json(text)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


def test_what_is_no_utf_8_is_refused() -> None:
    with pytest.raises(ValueError, match="not UTF-8"):
        parse_json(b'{"a": "\xff"}')


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert parse_json('"\\ud83d\\ude00"') == "\N{GRINNING FACE}"


def test_the_deepest_accepted_text_is_read() -> None:
    assert parse_json("[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1))


def test_true_is_no_version() -> None:
    assert is_version(1, 1)
    assert not any(is_version(value, 1) for value in (True, 1.0, "1", None, 2))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=100, deadline=None, derandomize=True)
@given(values)
def test_every_other_value_is_read_as_it_was_written(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=True).encode()) == value


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.binary(max_size=80) | st.text(alphabet='{}[]",:0123456789eE+-.\\untfalserNI ', max_size=60)
)
def test_any_bytes_are_a_value_or_refused_in_one_line(text: bytes | str) -> None:
    try:
        value = parse_json(text)
    except ValueError as exc:
        value, reason = None, str(exc)
    else:
        reason = ""
    assert "\n" not in reason
    assert not isinstance(value, float) or math.isfinite(value)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('"format_version": 1', '"format_version": true', "format_version True"),
        ('"format_version": 1', '"format_version": 1, "format_version": 1', "is repeated"),
        ('"created": ', '"check": NaN, "created": ', "NaN"),
        ('"file_size_bytes": ', '"file_size_bytes": true, "x": ', "file_size_bytes"),
    ],
)
def test_a_manifest_is_read_strictly(
    digits_onnx: Artifact, tmp_path: Path, old: str, new: str, why: str
) -> None:
    text = digits_onnx.manifest.to_json()
    assert old in text
    (tmp_path / "manifest.json").write_text(text.replace(old, new, 1))
    with pytest.raises(BadArtifact, match=why) as caught:
        read_artifact(tmp_path)
    assert "\n" not in str(caught.value)
