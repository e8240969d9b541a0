"""``resnext-export --format triton`` and ``kserve``: from options to a model repository."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext.cli.app import echo
from resnext.errors import UsageError
from resnext.storage import write_text

from .options import request_from

if TYPE_CHECKING:
    from resnext.artifact.files import Artifact
    from resnext_export.triton.options import RepositoryOptions
    from resnext_export.triton.repository import Repository

#: Folder of the repository without ``--output``.
OUTPUT = "model_repository"


def export_repository(
    fields: dict[str, Any],
    options: RepositoryOptions,
    output: Path | None,
    check: bool,
    force: bool,
    json_path: str | None,
    say: Callable[[str], None],
) -> Artifact:
    """Export an artifact, or read a finished one, and write a repository of it.

    Args:
        fields: of the export request; ``format`` is that of the repository.
        options: of the repository.
        output: its folder; None: `OUTPUT`.
        check: must be on: what was not checked is not served.
        force: replace models of the same name.
        json_path: where to write the artifact's manifest, or None.
        say: called with one line for what a user should know.

    Returns:
        The artifact in the repository.

    Raises:
        ResnextError: as `resnext_export.pipeline.run` and `write_repository`.
    """
    if not check:
        raise UsageError("an unchecked artifact is not served; drop `no_check`")
    from resnext.artifact.foreign import open_artifact
    from resnext.storage import scratch_folder
    from resnext_export.pipeline import run
    from resnext_export.triton.repository import (
        check_name,
        check_names,
        check_root,
        write_repository,
    )

    root, service = output or Path(OUTPUT), fields["format"] == "kserve"
    if options.name is not None:
        check_name(options.name)
    check_root(root)
    if options.name is not None and root.exists():
        check_names(root, (options.name,), force=force)  # now, not after the export
    with scratch_folder() as scratch:
        if options.artifact is not None:
            artifact = open_artifact(options.artifact)
        else:
            request = request_from(fields | {"format": options.kind or "onnx"})
            artifact = run(request, scratch / "artifact", say=say)
        written = write_repository(artifact, root, options, service=service, force=force, say=say)
    if json_path is not None:
        write_text(json_path, written.artifact.manifest.to_json())
    if json_path != "-":
        _report(written, service)
    return written.artifact


def _report(written: Repository, service: bool) -> None:
    """Print what was written, and what to do next."""
    from resnext_export.triton.kserve import SERVICE_NAME

    manifest, (name, *others) = written.artifact.manifest, written.models
    largest = written.max_batch
    echo(f"wrote     {written.root / name}  ({manifest.file_size_bytes / 1e6:.1f} MB)")
    for other in others:
        echo(f"wrote     {written.root / other}")
    echo(f"artifact  {written.artifact.directory}: {manifest.kind}, {manifest.precision}")
    echo(f"sha256    {manifest.file_sha256}")
    echo(f"batch     {f'up to {largest}' if largest else f'{manifest.batches()}, not batched'}")
    if service:
        echo(f"service   {written.root / name / SERVICE_NAME}")
    check = shlex.join(["resnext-export", "check-triton", str(written.root)])
    serve = shlex.join(["tritonserver", f"--model-repository={written.root.absolute()}"])
    echo(f"check     {check}")
    echo(f"serve     {serve}")
