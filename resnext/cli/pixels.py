"""``resnext-parity --pixels``: the pixels of a port, compared with those of an artifact's kit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext.storage import write_text

from .app import echo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from resnext.artifact.files import Artifact
    from resnext.verify.conformance import Kit
    from resnext.verify.pixels import PixelComparison

    from .junit import JUnit


def run(path: Path, file: Path, backend: str | None, json_path: str | None, junit: JUnit) -> None:
    """Compare, print and store.

    Args:
        path: of the artifact.
        file: .npy with the port's pixels.
        backend: runtime for the effect on the logits; None for the artifact's natural one.
        json_path: where the outcome goes as JSON.
        junit: gets a case for each picture.

    Raises:
        BadArtifact: the artifact or its kit is missing or damaged.
        BadInput: ``file`` is not a .npy file, or not of the kit's shape.
        GateFailed: the pixels differ.
    """
    import json

    from resnext.artifact.files import read_artifact
    from resnext.errors import BadInput, GateFailed
    from resnext.progress import working
    from resnext.readers.arrays import read_array
    from resnext.readers.files import MOST_PICTURE, open_file
    from resnext.verify.conformance import read_kit
    from resnext.verify.pixels import compare_pixels

    from .parity_junit import cases_of_pixels, classname

    artifact = read_artifact(path)
    kit = read_kit(artifact)
    with open_file(file, MOST_PICTURE) as opened:
        try:
            array = read_array(opened)
        except ValueError as exc:
            raise BadInput(f"{file} is not a .npy file: {exc}") from exc
    with working("looking for what differs"):
        outcome = compare_pixels(
            array, kit.names, kit.pictures, kit.pixels, kit.record.preprocessing
        )
    junit.add(cases_of_pixels(outcome, classname(artifact, "pixels")))
    effect = "none" if outcome.same else _effect(artifact, kit, array, backend)
    if json_path != "-":
        _print(outcome, artifact, effect)
    if json_path is not None:
        facts = {**outcome.model_dump(mode="json"), "effect": effect}
        write_text(json_path, json.dumps(facts, indent=2) + "\n")
    if not outcome.same:
        raise GateFailed(
            f"the pixels in {file} are not those of {artifact.directory}: {_why(outcome)}"
        )


def _why(outcome: PixelComparison) -> str:
    """What is wrong, in one line."""
    if outcome.mistakes:
        return "; ".join(mistake.message for mistake in outcome.mistakes)
    return "none of the known mistakes explains the difference"


def _print(outcome: PixelComparison, artifact: Artifact, effect: str) -> None:
    word = "PASS" if outcome.same else "FAIL"
    echo(f"{word}  pixels against {artifact.directory}")
    for each in outcome.pictures:
        verdict = "ok" if each.same else "differs"
        echo(
            f"  {each.name:14}  largest difference {each.largest:7.2f} gray levels (allowed"
            f" {each.allowed:g}), mean {each.mean:6.2f}  {verdict}"
        )
    if outcome.exact:
        echo("  every pixel is the same")
    elif outcome.same:
        echo("  the same within rounding, and within what JPEG decoders may differ")
    for mistake in outcome.mistakes:
        echo(f"  mistake         {mistake.message}")
    if not outcome.same and not outcome.mistakes:
        echo(f"  mistake         {_why(outcome)}")
    if not outcome.same:
        echo(f"  logits          {effect}")


def _effect(artifact: Artifact, kit: Kit, array: NDArray[Any], backend: str | None) -> str:
    """What the port's pixels change in the artifact's answers, in words."""
    import numpy as np

    from resnext.errors import ResnextError
    from resnext.runtimes.registry import open_session
    from resnext.verify.check import batched, natural_runtime, whole

    manifest, pixels, preprocessing = artifact.manifest, kit.pixels, kit.record.preprocessing
    ours: NDArray[Any] = pixels if manifest.preprocessing_baked else preprocessing.normalize(pixels)
    theirs = array
    if array.dtype == np.uint8 and array.shape == pixels.shape:
        baked = manifest.preprocessing_baked
        theirs = array if baked else preprocessing.normalize(array)
    if theirs.shape != ours.shape or (theirs.dtype == np.uint8) != (ours.dtype == np.uint8):
        return "not known: the network does not take such an array"
    batch = manifest.batch.min if manifest.batch.static else max(1, manifest.batch.min)
    rows = whole(len(ours), batch)
    try:
        with open_session(artifact, backend or natural_runtime(artifact)) as session:
            right, wrong = (
                batched(session, np.ascontiguousarray(each[rows]).astype(each.dtype), batch)
                for each in (ours, theirs.astype(ours.dtype))
            )
    except ResnextError as exc:
        return f"not known: {exc}"
    count = len(ours)
    right, wrong = right[:count].astype(np.float64), wrong[:count].astype(np.float64)
    flips = int((right.argmax(axis=1) != wrong.argmax(axis=1)).sum())
    error = float(np.abs(wrong - right).max() / np.sqrt(np.mean(right**2)))
    return f"top-1 changes on {flips} of {count} pictures, largest error {error:.2g} of their RMS"
