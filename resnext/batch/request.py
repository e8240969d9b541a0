"""What a batch run is asked for, and the file that holds an output folder to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationError

from resnext.artifact.manifest import Sha256
from resnext.artifact.specs import Strict
from resnext.errors import BadInput, UsageError
from resnext.images.preprocessing import PIXELS_VERSION, Preprocessing
from resnext.readers.files import MOST_JSON, exists, read_file
from resnext.readers.strict_json import parse_json
from resnext.storage import write_whole
from resnext.version import __version__

if TYPE_CHECKING:
    from resnext.artifact.files import Artifact

Format = Literal["jsonl", "parquet"]
_NAME = "request.json"
_ELSEWHERE = "choose another `output`"


class Request(Strict):
    """Everything that the rows of a run depend on.

    Attributes:
        format_version: version of this record.
        input: absolute path of the pictures. The rows do not depend on it, but an output folder is
            of one input.
        artifact_sha256: digest of the model file.
        preprocessing: how pictures become the input.
        pixels_version: version of how it is carried out.
        backend: runtime.
        batch: images in one run; fixed, because logits may differ in the last bit between sizes.
        top: classes in a row.
        logits: rows have all logits, too.
        format: of the parts.
        version: of this toolkit.
    """

    format_version: Literal[1] = 1
    input: str
    artifact_sha256: Sha256
    preprocessing: Preprocessing
    pixels_version: int = PIXELS_VERSION
    backend: str
    batch: Annotated[int, Field(ge=1)]
    top: Annotated[int, Field(ge=1)]
    logits: bool
    format: Format
    version: str = __version__

    @property
    def facts(self) -> str:
        """What the rows of a shard depend on besides its pictures, as one text."""
        return self.model_dump_json(exclude={"input"})


def request_for(
    artifact: Artifact,
    source: Path,
    *,
    backend: str,
    batch: int,
    top: int,
    logits: bool,
    format: Format,
) -> Request:
    """The request to run ``artifact`` on the pictures at ``source``.

    Raises:
        UsageError: nothing says how pictures become the input of the artifact.
    """
    return Request(
        input=str(source.resolve()),
        artifact_sha256=artifact.manifest.file_sha256,
        preprocessing=artifact.manifest.prepared,
        backend=backend,
        batch=batch,
        top=top,
        logits=logits,
        format=format,
    )


def hold_to(request: Request, output: Path) -> None:
    """Check that ``output`` is of ``request``; a new or empty folder becomes it.

    Raises:
        UsageError: it is of another request, or holds something else.
        BadInput: its record is damaged.
        OSError: it cannot be written.
    """
    path = output / _NAME
    if not exists(path):
        if exists(output) and any(not it.name.startswith(".") for it in output.iterdir()):
            raise UsageError(f"{output} holds files that are not of a batch run", hint=_ELSEWHERE)
        write_whole(path, request.model_dump_json(indent=2).encode() + b"\n")
        return
    text = read_file(path, MOST_JSON)
    try:
        parse_json(text)
        stored = Request.model_validate_json(text)
    except (ValueError, ValidationError) as exc:
        raise BadInput(f"{path} is damaged", hint=f"{_ELSEWHERE}, or remove {output}") from exc
    for field in Request.model_fields:
        before, now = getattr(stored, field), getattr(request, field)
        if before != now:
            raise UsageError(
                f"{output} was begun with another {field.replace('_', ' ')}: {_short(before)}, and"
                f" not {_short(now)}",
                hint=f"{_ELSEWHERE}, or go on as it was begun",
            )


def _short(value: object) -> str:
    text = value.summary() if isinstance(value, Preprocessing) else str(value)
    return text[:12] if len(text) == 64 and text.isalnum() else text
