"""Checkpoint files by their bytes, whatever their names end in."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from resnext.errors import BadInput, BadWeights
from resnext.readers.archives import read_entries
from resnext.readers.files import (
    MIB,
    MOST_JSON,
    MOST_MODEL,
    is_file,
    is_folder,
    open_file,
    read_all,
)
from resnext.readers.strict_json import parse_json
from resnext.readers.tensors import read_tensor_header

from .file_kinds import CUT_SHORT, other_file, refuse_folder, refuse_other_archive
from .pickles import read_pickle

#: Key of the JSON header that `save_weights` writes into a safetensors file.
METADATA_KEY = "resnext"
_ZIP, _PICKLE = b"PK\3\4", b"\x80"
#: Name of one file of several, as Hugging Face's libraries write it.
_SHARD = re.compile(
    r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})(?P<suffix>\.\w+)", re.DOTALL | re.ASCII
)
#: Most files of a sharded checkpoint; each has gigabytes usually.
_MOST_SHARDS = 1000


@dataclass(frozen=True)
class Container:
    """What is in a checkpoint file, before anything is made of it.

    Attributes:
        content: what was saved: a mapping of names to tensors, or one that has it inside.
        file_sha256: digest of the file's bytes. Of a sharded checkpoint, that of the text with one
            line ``<sha256>  <name>`` for the index and for each shard by name, as ``sha256sum``
            prints them.
        size_bytes: of the file, or of all shards.
        header: the header that `save_weights` wrote; empty for files from elsewhere.
    """

    content: Any
    file_sha256: str
    size_bytes: int
    header: Mapping[str, Any] = field(default_factory=dict)


def read_container(path: Path) -> Container:
    """Read a checkpoint: a file of safetensors or `torch.save`, or the index of a sharded one.

    Raises:
        BadWeights: it cannot be read, is not safe to read, or is none of these.
    """
    if is_folder(path):
        refuse_folder(path)
    _refuse_shard(path)
    with open_file(path, MOST_MODEL, BadWeights, least=0) as file:
        try:
            start = file.read(9)
            file.seek(0)
            if start.lstrip().startswith(b"{") and (index := _shard_index(file)) is not None:
                return _from_shards(file, path, index)
            return _from_file(file, path, start)
        except OSError as exc:  # a disk that fails, or a file that is none
            raise BadWeights(f"cannot read {path}: {exc.strerror or exc}") from exc


def _refuse_shard(path: Path) -> None:
    """Refuse a file that an index beside it has as one of several."""
    match = _SHARD.fullmatch(path.name)
    index = path.with_name(f"{match['stem']}{match['suffix']}.index.json") if match else path
    if match and int(match["count"]) > 1 and is_file(index):
        raise BadWeights(
            f"{path} is one shard of {int(match['count'])}, and has a part of the tensors",
            hint=f"name {index}, their index",
        )


def _from_file(file: BinaryIO, path: Path, start: bytes) -> Container:
    if start[4:] == bytes(4) + b"{":  # a header of less than 4 GiB
        return _from_safetensors(file, path)
    if start.startswith((_ZIP, _PICKLE)):
        return _from_pickle(file, path)
    raise other_file(file, path)


def _from_pickle(file: BinaryIO, path: Path) -> Container:
    digest = _sha256(file)
    if file.read(4) == _ZIP:  # files from before PyTorch 1.6 are bare pickles
        refuse_other_archive(file, path)
        try:
            read_entries(file, any_folder=True)
        except ValueError as exc:
            raise BadWeights(
                f"{path} is not a readable PyTorch checkpoint: {exc}",
                hint=CUT_SHORT,
            ) from exc
    file.seek(0)
    return Container(read_pickle(file, path), digest, os.fstat(file.fileno()).st_size)


def _from_safetensors(file: BinaryIO, path: Path) -> Container:
    with _readable(path):
        metadata = read_tensor_header(file, os.fstat(file.fileno()).st_size)
        header = parse_json(metadata.get(METADATA_KEY, "{}"))
        file.seek(0)
        data = read_all(file, path, BadWeights)
        content = load(data)
    digest = hashlib.sha256(data).hexdigest()
    return Container(content, digest, len(data), header if isinstance(header, dict) else {})


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except BadWeights:
        raise
    except (SafetensorError, OSError, ValueError) as exc:
        raise BadWeights(
            f"{path} is not a readable safetensors file: {exc}",
            hint=CUT_SHORT,
        ) from exc


def _shard_index(file: BinaryIO) -> dict[str, Any] | None:
    """The names of tensors with the file of each, if ``file`` is an index."""
    if os.fstat(file.fileno()).st_size > MOST_JSON:
        return None
    try:
        index = parse_json(file.read())
    except ValueError:
        return None
    finally:
        file.seek(0)
    names = index.get("weight_map") if isinstance(index, dict) else None
    return names if isinstance(names, dict) else None


def _from_shards(file: BinaryIO, path: Path, index: Mapping[str, Any]) -> Container:
    names = set(index.values())
    if not all(isinstance(n, str) and n and Path(n).name == n and "\0" not in n for n in names):
        raise BadWeights(f"{path} names shards that are not files beside it")
    if not 0 < len(names) <= _MOST_SHARDS:
        raise BadWeights(f"{path} names {len(names)} shards, 1 to {_MOST_SHARDS} are accepted")
    places: dict[str, set[str]] = {name: set() for name in names}
    for tensor, place in index.items():
        places[place].add(tensor)
    tensors: dict[str, Tensor] = {}
    size_bytes = 0
    lines = [f"{_sha256(file)}  {path.name}\n"]
    for name in sorted(names):
        shard = path.parent / name  # beside the index, not beside what a link leads to
        try:
            part = _shard(shard)
        except BadInput as exc:
            raise BadWeights(
                f"a shard of {path.name}: {exc.message}", hint=exc.hint or "download all shards"
            ) from exc
        if not isinstance(part.content, Mapping) or set(part.content) != places[name]:
            raise BadWeights(
                f"{shard} does not have the tensors that {path.name} says",
                hint="download the index and all shards again, from one revision",
            )
        tensors.update(part.content)
        size_bytes += part.size_bytes
        lines.append(f"{part.file_sha256}  {name}\n")
    return Container(tensors, hashlib.sha256("".join(lines).encode()).hexdigest(), size_bytes)


def _shard(path: Path) -> Container:
    with open_file(path, MOST_MODEL, BadWeights, least=0) as file:
        start = file.read(9)
        file.seek(0)
        return _from_file(file, path, start)


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(MIB):
        digest.update(chunk)
    file.seek(0)
    return digest.hexdigest()
