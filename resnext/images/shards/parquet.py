"""Parquet files as shards of one or several row groups: a column with pictures as bytes or, as
Hugging Face's datasets write them, as ``{bytes, path}``, and perhaps one with labels.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from resnext.errors import BadInput, MissingRequirement, first_line
from resnext.machine.faults import environment_fault
from resnext.readers.files import open_file

from .folder import MOST_PICTURES, file_status
from .shard import Label, Picture, Shard, plain

#: Largest Parquet file, and largest row group after decompression, bytes.
MOST_PARQUET = 1 << 40
MOST_GROUP = 4 << 30
_NAMED = ("image", "img", "picture", "jpg", "jpeg", "png", "bytes")
_LABELS = ("label", "labels", "cls", "fine_label")
#: One thread reads a row group for all.
_reading = Lock()


@dataclass(frozen=True)
class ParquetShard(Shard):
    """Row groups of a Parquet file that follow each other.

    Attributes:
        path: the file.
        name: its path relative to the input, and the number of the first row group.
        size: of the file, bytes.
        changed: time of its last change, ns.
        group: number of the first row group.
        counts: rows of each row group.
        first: number of the first row in the file.
        image: column of the pictures, and whether they are ``{bytes, path}``.
        label: column of the labels, or "".
        class_names: names of the classes, by label, if the file has them.
    """

    path: Path
    name: str
    size: int
    changed: int
    group: int
    counts: tuple[int, ...]
    first: int
    image: tuple[str, bool]
    label: str
    class_names: tuple[str, ...]

    @property
    def pictures_known(self) -> int:  # type: ignore[override]  # an attribute for its callers
        """Number of its pictures."""
        return sum(self.counts)

    @property
    def weight(self) -> int:  # type: ignore[override]
        """Pictures."""
        return sum(self.counts)

    def listing(self) -> Iterable[str]:
        """Size and time of the file, and what is read of it."""
        return (f"{self.size} {self.changed} {self.group} {self.counts} {self.image} {self.label}",)

    def pictures(self) -> Iterator[Picture]:
        """In the order of rows."""
        first = self.first
        for group, count in enumerate(self.counts, self.group):
            yield from self._group(group, count, first)
            first += count

    def _group(self, group: int, count: int, first: int) -> Iterator[Picture]:
        column, nested = self.image
        wanted = [*([f"{column}.path"] * nested), *([self.label] * bool(self.label))]
        values = self.table(group, tuple(wanted)).to_pydict() if wanted else {}
        paths = [it and it.get("path") for it in values[column]] if nested else [None] * count
        labels = values.get(self.label, [None] * count)
        stem = plain(self.name.rpartition("#")[0])
        for row, (path, label) in enumerate(zip(paths, labels, strict=True)):
            key = f"{stem}#{first + row}"
            yield Picture(
                plain(f"{key}/{path}" if path else key),
                _label(label),
                None,
                partial(self._load, group, row, first),
            )

    def _load(self, group: int, row: int, first: int) -> bytes:
        column, nested = self.image
        with _reading:
            values = _pictures(self, group, f"{column}.bytes" if nested else column)[column]
            value = values[row].as_py()
        stem = self.name.rpartition("#")[0]
        data = value and value.get("bytes") if nested else value
        if not isinstance(data, bytes):
            raise BadInput(f"row {first + row} of {stem} has no picture")
        return data

    def table(self, group: int, columns: tuple[str, ...]) -> Any:
        """Some columns of a row group, as pyarrow has them.

        Raises:
            BadInput: they cannot be read, or the file changed.
        """
        with _file(self.path) as file:
            if file_status(self.path) != (self.size, self.changed):
                raise BadInput(f"{self.path} changed since this began", hint="start again")
            return file.read_row_group(group, columns=list(columns), use_threads=False)


def parquet_shards(path: Path, name: str) -> Iterator[ParquetShard]:
    """The shards of a Parquet file: row groups together up to `MOST_PICTURES`, or a larger one.

    Writers of pictures make groups of about a hundred, which is too few to be worth a shard.

    Raises:
        BadInput: it is none, has no column of pictures or several, or a row group is too large.
        MissingRequirement: pyarrow is not installed.
    """
    status = file_status(path)
    with _file(path) as file:
        schema, metadata = file.schema_arrow, file.metadata
        image, label = _image(path, schema), ""
        names: tuple[str, ...] = ()
        for column in _LABELS:
            if not label and column in schema.names:
                label, names = column, _class_names(schema, column)
        first, counts = 0, list[int]()
        for group in range(metadata.num_row_groups):
            facts = metadata.row_group(group)
            if facts.total_byte_size > MOST_GROUP:
                raise BadInput(
                    f"row group {group} of {path} has {facts.total_byte_size} bytes, at most"
                    f" {MOST_GROUP} are accepted",
                    hint="write it again with smaller row groups",
                )
            counts.append(facts.num_rows)
            last = group + 1 == metadata.num_row_groups
            if last or sum(counts) + metadata.row_group(group + 1).num_rows > MOST_PICTURES:
                begin = group + 1 - len(counts)
                yield ParquetShard(
                    path,
                    f"{name}#{begin}",
                    *status,
                    begin,
                    tuple(counts),
                    first,
                    image,
                    label,
                    names,
                )
                first, counts = first + sum(counts), []


@functools.lru_cache(maxsize=2)
def _pictures(shard: ParquetShard, group: int, column: str) -> Any:
    """The pictures of the row groups that are being read, undecoded; callers hold `_reading`."""
    return shard.table(group, (column,))


@contextmanager
def _file(path: Path) -> Iterator[Any]:
    try:
        import pyarrow.parquet as pq
    except ImportError as exc:
        raise environment_fault(exc) or MissingRequirement(
            "Parquet needs the Python package pyarrow", hint="pip install pyarrow"
        ) from exc
    with open_file(path, MOST_PARQUET) as raw:
        try:
            with pq.ParquetFile(raw) as file:
                yield file
        except BadInput:
            raise
        except Exception as exc:  # pyarrow's errors have no common base class
            raise environment_fault(exc) or BadInput(
                f"cannot read {path} as Parquet: {first_line(exc)}"
            ) from exc


def _image(path: Path, schema: Any) -> tuple[str, bool]:
    """The column of pictures, and whether its values are ``{bytes, path}``."""
    import pyarrow.types as types

    def binary(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    found = {}
    for column in schema:
        if binary(column.type):
            found[column.name] = False
        elif types.is_struct(column.type):
            fields = {
                column.type.field(i).name: column.type.field(i).type
                for i in range(column.type.num_fields)
            }
            if binary(fields.get("bytes")) and "path" in fields:
                found[column.name] = True
    named = [name for name in _NAMED if name in found] or list(found)
    if not named or (len(named) > 1 and named[0] not in _NAMED):
        raise BadInput(
            f"{path} has {'no' if not named else 'several'} columns of pictures"
            f" ({', '.join(named or schema.names)})",
            hint="call the one with the bytes of the pictures image",
        )
    return named[0], found[named[0]]


def _class_names(schema: Any, column: str) -> tuple[str, ...]:
    """Names of the classes, as Hugging Face's datasets store them in the schema."""
    try:
        stored = json.loads((schema.metadata or {})[b"huggingface"])
        names = stored["info"]["features"][column]["names"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return ()
    named = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if named else ()


def _label(value: object) -> Label:
    return value if type(value) is int or (isinstance(value, str) and value) else None
