"""The receipt of a finished shard."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from resnext.artifact.manifest import Sha256
from resnext.artifact.specs import Strict
from resnext.errors import BadArtifact, BadInput, MissingRequirement, ResnextError
from resnext.images.shards.folder import file_status
from resnext.readers.files import MOST_JSON, file_sha256, read_file
from resnext.readers.strict_json import parse_json
from resnext.storage import write_whole
from resnext.version import __version__

Count = Annotated[int, Field(ge=0)]
#: Folder of the receipts in an output folder.
RECEIPTS = "receipts"


class Failure(Strict):
    """A picture without a result.

    Attributes:
        key: of its row.
        reason: why, in one line.
    """

    key: str
    reason: str


class Times(Strict):
    """Where the time of a shard went, ns; those of threads add up and may exceed ``wall``.

    Attributes:
        session: the session ran.
        read: pictures were read from storage, on all threads.
        decode: pictures were decoded and resized, on all threads.
        starved: the session waited for pictures.
        blocked: the session waited for rows to be written.
        wall: from the first picture to the receipt. Shards of one worker overlap a little.
    """

    session: Count = 0
    read: Count = 0
    decode: Count = 0
    starved: Count = 0
    blocked: Count = 0
    wall: Count = 0


class Receipt(Strict):
    """What became of a shard. Written after its part, so a part without one is not finished.

    Attributes:
        format_version: version of this record.
        shard: id of the shard.
        name: name of the shard in its input.
        part: name of the file with its rows.
        part_sha256: digest of that file.
        part_bytes: its size; -1 in a receipt of an older toolkit.
        part_changed: time of its last change, ns.
        rows: pictures.
        failures: pictures without a result.
        times: where the time went.
        worker: who did it: host and process.
        threads: CPU threads of its session.
        decode_threads: its threads that read and decode.
        artifact_sha256: digest of the model file.
        version: of the toolkit.
    """

    format_version: Literal[1] = 1
    shard: Sha256
    name: str
    part: str
    part_sha256: Sha256
    part_bytes: int = -1
    part_changed: int = -1
    rows: Count
    failures: tuple[Failure, ...]
    times: Times
    worker: str
    threads: Annotated[int, Field(ge=1)]
    decode_threads: Annotated[int, Field(ge=1)]
    artifact_sha256: Sha256
    version: str = __version__


def cannot_write(output: Path, error: OSError) -> ResnextError:
    """The error of an output folder that cannot be written."""
    message = f"cannot write {error.filename or output}: {error.strerror or error}"
    if error.errno in (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.ENOENT):
        return BadInput(message, hint="choose another `output`")
    remedy = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "mend that"
    return MissingRequirement(
        message, hint=f"finished shards are kept: {remedy}, and the same command goes on"
    )


def part_name(shard: str, format: str) -> str:
    """Name of the file with the rows of the shard with id ``shard``."""
    return f"part-{shard[:16]}.{format}"


def write_receipt(receipt: Receipt, output: Path) -> None:
    """Write ``receipt`` into ``output``.

    Raises:
        OSError: it cannot be written.
    """
    path = output / RECEIPTS / f"{receipt.shard}.json"
    write_whole(path, receipt.model_dump_json(indent=2).encode() + b"\n")


def finished(shard: str, output: Path, format: str) -> Receipt | None:
    """The receipt of a shard whose part is whole.

    A part with the size and the time of its receipt is taken to be, as pictures are; others, such
    as copies, are if they have the digest. So going on does not read all that was written.

    Returns:
        None if the shard is to be done (again): it has no receipt, or the receipt or the part is
        damaged or of something else.
    """
    part = output / part_name(shard, format)
    try:
        text = read_file(output / RECEIPTS / f"{shard}.json", MOST_JSON)
        parse_json(text)
        receipt = Receipt.model_validate_json(text)
        if (receipt.shard, receipt.part) != (shard, part.name):
            return None
        same = file_status(part) == (receipt.part_bytes, receipt.part_changed)
        whole = same or file_sha256(part) == receipt.part_sha256
    except (BadArtifact, BadInput, ValueError, ValidationError):
        return None
    return receipt if whole else None
