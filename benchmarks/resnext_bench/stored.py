"""Files of JSON that the benchmark keeps, each with its format version."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from resnext.errors import BadInput
from resnext.readers.files import MOST_JSON, read_file
from resnext.readers.strict_json import is_version, parse_json

Model = TypeVar("Model", bound=BaseModel)


def read_stored(path: Path, model: type[Model], name: str, version: int) -> Model:
    """Read a stored result.

    Args:
        path: of the file.
        model: of its fields.
        name: what it is, for messages: ``run``.
        version: the ``format_version`` that is read; a file without one has version 1.

    Raises:
        BadInput: missing, not JSON, or not such a result of this format version.
    """
    text = read_file(path, MOST_JSON)
    not_one = f"{path} is not a stored {name} (format_version {version})"
    try:
        raw = parse_json(text)
    except ValueError as exc:
        raise BadInput(f"{not_one}: {exc}") from exc
    if not isinstance(raw, dict):
        raise BadInput(not_one)
    if not is_version(found := raw.get("format_version", 1), version):
        newer = type(found) is int and found > version
        hint = "read it with a newer toolkit" if newer else ""
        raise BadInput(f"{not_one}, its format_version is {found!r}", hint=hint)
    try:
        return model.model_validate_json(text, strict=True)
    except ValidationError as exc:
        detail = exc.errors()[0]
        field = ".".join(map(str, detail["loc"]))
        raise BadInput(f"{not_one}: {field} {detail['msg']}") from exc


def has_field(path: Path, name: str) -> bool:
    """Whether the file is a JSON object with a field ``name``: what kind of result it is.

    Raises:
        BadInput: it cannot be read.
    """
    try:
        raw: Any = parse_json(read_file(path, MOST_JSON))
    except ValueError:
        return False
    return isinstance(raw, dict) and name in raw
