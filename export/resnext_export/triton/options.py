"""The options of a model repository, and the names of the formats that are one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from annotated_types import Interval

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
