"""The options of a model repository, and the names of the formats that are one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval

from resnext.errors import UsageError
from resnext_export.options import FormatOptions, Option

#: Formats that are no kind of artifact: a checked artifact, laid out for a server.
REPOSITORIES = {
    "triton": "a model repository for Triton",
    "kserve": "the same, and an InferenceService for KServe",
}


@dataclass(frozen=True)
class RepositoryOptions(FormatOptions):
    """What a repository is made of, and how the server runs it. None means: the default."""

    section: ClassVar[str] = "Repository"
    title: ClassVar[str] = "repositories: "

    artifact: Annotated[
        Path | None,
        Option(
            "Finished, checked artifact to put into the repository, instead of a new one.",
            metavar="DIR",
        ),
    ] = None
    kind: Annotated[
        Literal["onnx", "openvino", "trt"] | None,
        Option("Kind of artifact to export.  [default: onnx]", kind="kind of artifact"),
    ] = None
    name: Annotated[
        str | None,
        Option(
            "Name of the model, which clients ask for.  [default: WEIGHTS-PRECISION]",
            metavar="NAME",
        ),
    ] = None
    cpus: Annotated[
        int | None,
        Interval(ge=1, le=1024),
        Option("CPUs that the server gets.  [default: those that this process may use]"),
    ] = None
    max_batch: Annotated[
        int | None,
        Interval(ge=1, le=65536),
        Option(
            "Largest batch, within what the artifact takes.  [default: the artifact's; 64 without"
            " a limit]"
        ),
    ] = None
    queue_delay: Annotated[
        int | None,
        Interval(ge=0, le=10_000_000),
        Option(
            "Longest time that a request waits for others, microseconds.  [default: 0, only those"
            " that wait anyhow share a batch]",
            metavar="US",
        ),
    ] = None
    with_preprocessing: Annotated[
        bool,
        Option(
            "Add NAME-preprocess, in Python, and NAME-classify: bytes of JPEG or PNG files in,"
            " logits and class names out."
        ),
    ] = False
    storage_uri: Annotated[
        str | None,
        Option(
            "Where the cluster finds the repository, for kserve.  [default: a placeholder that"
            " KServe refuses]",
            metavar="URI",
        ),
    ] = None


def take_options(fields: dict[str, Any]) -> RepositoryOptions:
    """Take the options of a repository out of ``fields``, which are all that a command got.

    Raises:
        UsageError: some are set, and ``format`` is no repository; or they do not go together.
    """
    names = [each.name for each in dataclasses.fields(RepositoryOptions)]
    values = {name: fields.pop(name) for name in names if name in fields}
    given = {name: value for name, value in values.items() if value not in (None, False)}
    kind = fields.get("format")
    if given and kind not in REPOSITORIES:
        raise UsageError(f"`{next(iter(given))}` is for `format` {' or '.join(REPOSITORIES)}")
    if "storage_uri" in given and kind != "kserve":
        raise UsageError("`storage_uri` is for `format` kserve")
    if "artifact" in given:
        others = {n: v for n, v in fields.items() if n != "format" and v not in (None, False)}
        for name in (*(("kind",) if "kind" in given else ()), *others):
            raise UsageError(f"the artifact is finished; drop `{name}`")
    return RepositoryOptions(**given)
