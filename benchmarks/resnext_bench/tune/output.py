"""The folder that a search leaves: the artifact that was measured, the search, and its page."""

from __future__ import annotations

from pathlib import Path

from resnext.artifact.files import SEARCH_NAMES, Artifact, seal, staging
from resnext.errors import BadArtifact
from resnext_export import recorded_widths

from .recipes import export_record
from .request import Request
from .result import Tuned
from .space import Point
from .state import state_path


def write_output(
    tuned: Tuned, artifact: Artifact, point: Point, request: Request, output: Path, *, force: bool
) -> None:
    """Write the folder, whole or not at all: exactly the bytes that were measured.

    Args:
        tuned: the search.
        artifact: what was measured, in the cache.
        point: of the pick.
        request: of the search; the manifest stores what makes the artifact again.
        output: the folder.
        force: replace an artifact that is already there.

    Raises:
        BadArtifact: the artifact in the cache is no longer the one that was measured.
        UsageError: the folder is taken.
        MissingRequirement: it cannot be written.
    """
    (picked,) = (one for one in tuned.candidates if one.name == tuned.pick)
    if artifact.manifest.file_sha256 != picked.artifact_sha256:
        raise BadArtifact(
            f"{artifact.path} is not the artifact that was measured",
            hint="search anew with `force`",
        )
    widths = recorded_widths(artifact.manifest) if point.merge == "auto" else None
    record = export_record(point, request, widths)
    manifest = artifact.manifest.model_copy(update={"request": record})
    search, page = SEARCH_NAMES
    with staging(output, force=force) as folder:
        artifact.write_to(folder)
        seal(folder, manifest)
        (folder / search).write_text(tuned.model_dump_json() + "\n", encoding="utf-8")
        (folder / page).write_text(tuned.html(), encoding="utf-8")
    if tuned.complete:
        state_path(output).unlink(missing_ok=True)
