"""Files that are no checkpoint, by what they are.

A model hub's web page, a Git LFS pointer or an exported program is often saved under the name of a
checkpoint. A row here says what the file is, and what to do instead.
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from resnext.errors import BadWeights
from resnext.readers.files import is_file

#: What to do with the parts that FSDP and DCP write.
CONVERT = "convert it with torch.distributed.checkpoint.format_utils.dcp_to_torch_save() first"
CUT_SHORT = "it may be cut short or damaged: download or copy it again"
#: Bytes at the start of a file that are looked at; tar has its name at byte 257.
_START_BYTES = 4096

_UNPACK = "unpack it first"
_DOWNLOAD = "download it again"
_OTHER_FRAMEWORK = "convert it to a state_dict() of PyTorch"
_PICTURE = "pictures are what the network classifies; name a checkpoint"
_STATE_DICT = "save the state_dict() of the network that it was made from"


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        name: after "it is".
        remedy: what to do.
        pattern: of its first bytes; for an archive, of a line, each the name of an entry.
        always: whether all lines must match.
    """

    name: str
    remedy: str
    pattern: bytes
    always: bool = False


#: By the first bytes, in this order; text comes last.
BY_BYTES: tuple[Kind, ...] = (
    Kind("an empty file", _DOWNLOAD, rb"\Z"),
    Kind(
        "a Git LFS pointer, not the file that it points to",
        "run git lfs pull",
        rb"version https://git-lfs",
    ),
    Kind(
        "a web page, perhaps of a login or an error",
        "download the file itself",
        rb"(?i)\s*(<!--.*?-->\s*)*<(!doctype html|html|head|body)\b",
    ),
    Kind("XML, an error of a server or a graph of OpenVINO", "name a checkpoint", rb"\s*<\?xml\b"),
    Kind("a gzip archive", _UNPACK, rb"\x1f\x8b"),
    Kind("a bzip2 archive", _UNPACK, rb"BZh[1-9]"),
    Kind("an xz archive", _UNPACK, rb"\xfd7zXZ\0"),
    Kind("a Zstandard archive", _UNPACK, rb"\x28\xb5\x2f\xfd"),
    Kind("a 7-Zip archive", _UNPACK, rb"7z\xbc\xaf\x27\x1c"),
    Kind("a RAR archive", _UNPACK, rb"Rar!\x1a\x07"),
    Kind("a tar archive", _UNPACK, rb".{257}ustar"),
    Kind("HDF5, as Keras and TensorFlow save weights", _OTHER_FRAMEWORK, rb"\x89HDF\r\n\x1a\n"),
    Kind("a NumPy array (.npy)", _OTHER_FRAMEWORK, rb"\x93NUMPY"),
    Kind("GGUF, as llama.cpp has it", "name a checkpoint of PyTorch", rb"GGUF|ggml|lmgg"),
    Kind("a TensorFlow Lite model", _OTHER_FRAMEWORK, rb".{4}TFL3"),
    Kind("a SavedModel of TensorFlow", _OTHER_FRAMEWORK, rb"\x08\x01\x12"),
    Kind("an ONNX model", _STATE_DICT, rb"\x08[\x02-\x20][\x12\x1a\x22\x2a\x32\x3a\x42]"),
    Kind("an engine of TensorRT", _STATE_DICT, rb"ftrt|ptrt"),
    Kind("a shared library or a program", "name a checkpoint", rb"\x7fELF|MZ"),
    Kind("a JPEG picture", _PICTURE, rb"\xff\xd8\xff"),
    Kind("a PNG picture", _PICTURE, rb"\x89PNG\r\n\x1a\n"),
    Kind("a GIF picture", _PICTURE, rb"GIF8[79]a"),
    Kind("a WebP picture", _PICTURE, rb"RIFF.{4}WEBP"),
    Kind("a TIFF picture", _PICTURE, rb"II\*\0|MM\0\*"),
    Kind("a PDF document", "name a checkpoint", rb"%PDF-"),
    Kind("full of zeros, as an interrupted download leaves it", _DOWNLOAD, rb"\0{64,}\Z"),
)
#: What else is text.
JSON = Kind("JSON, perhaps a configuration", "name the file with the tensors", b"")
TEXT = Kind("text", "name the file with the tensors", b"")
#: By the entries of a ZIP archive, in this order.
BY_ENTRIES: tuple[Kind, ...] = (
    Kind(
        "a package of AOTInductor",
        f"{_STATE_DICT}; a package is run by naming it in `artifact`",
        rb"(.*/)?data/aotinductor/.*",
    ),
    Kind(
        "an exported program (torch.export)",
        _STATE_DICT,
        rb"(.*/)?(archive_format|models/\w+\.json|serialized_exported_program\.json)",
    ),
    Kind(
        "a TorchScript archive",
        "torch.jit.load() it, and save its state_dict()",
        rb".*/(constants\.pkl|code/.*)",
    ),
    Kind("an archive of NumPy arrays (.npz)", _OTHER_FRAMEWORK, rb".*\.npy", always=True),
    Kind("a Keras model", _OTHER_FRAMEWORK, rb"model\.weights\.h5"),
)
#: What a checkpoint of `torch.save` has.
_PICKLE_ENTRY = re.compile(r"(.*/)?data\.pkl", re.DOTALL)
#: Files that a folder may have, of which one is meant.
_IN_FOLDERS = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)


def refuse_folder(path: Path) -> NoReturn:
    """Refuse a folder, and name the file in it that is meant.

    Raises:
        BadWeights: always.
    """
    if is_file(path / ".metadata"):
        raise _no_checkpoint(path, "a folder with a distributed checkpoint", CONVERT)
    inside = [path / name for name in _IN_FOLDERS if is_file(path / name)]
    raise _no_checkpoint(path, "a folder", f"name {(*inside, 'a checkpoint in it')[0]}")


def refuse_other_archive(file: BinaryIO, path: Path) -> None:
    """Refuse a ZIP archive that is not from `torch.save`; its entries are only listed.

    Raises:
        BadWeights: it is cut short, or of another kind.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as exc:
        raise _no_checkpoint(path, "a ZIP archive that is cut short or damaged", _DOWNLOAD) from exc
    finally:
        file.seek(0)
    names = [entry.orig_filename for entry in entries]
    for kind in BY_ENTRIES:
        matches = (re.fullmatch(kind.pattern.decode(), name, re.DOTALL) for name in names)
        if names and (all(matches) if kind.always else any(matches)):
            raise _no_checkpoint(path, kind.name, kind.remedy)
    if not any(map(_PICKLE_ENTRY.fullmatch, names)):
        raise _no_checkpoint(path, "a ZIP archive of other files", _UNPACK)
    if min(entry.header_offset for entry in entries) > 0:
        raise _no_checkpoint(path, "one part of a distributed checkpoint", CONVERT)


def other_file(file: BinaryIO, path: Path) -> BadWeights:
    """The error about a file that is neither safetensors, nor from `torch.save`, nor an index of
    shards.
    """
    start = file.read(_START_BYTES)
    for kind in BY_BYTES:
        if re.match(kind.pattern, start, re.DOTALL):
            return _no_checkpoint(path, kind.name, kind.remedy)
    if _is_text(start):
        kind = JSON if start.lstrip()[:1] in (b"{", b"[") else TEXT
        return _no_checkpoint(path, kind.name, kind.remedy)
    return BadWeights(
        f"{path} is not a checkpoint: it begins neither as safetensors nor as torch.save's files",
        hint=f"{_DOWNLOAD}, or save the state_dict() again",
    )


def _is_text(start: bytes) -> bool:
    """Whether the bytes are UTF-8 without control characters; the last character may be cut."""
    text = start.decode("utf-8", errors="replace").rstrip("\ufffd")
    return bool(text) and all(c.isprintable() or c.isspace() for c in text) and "\ufffd" not in text


def _no_checkpoint(path: Path, kind: str, remedy: str) -> BadWeights:
    return BadWeights(f"{path} is not a checkpoint: it is {kind}", hint=remedy)
