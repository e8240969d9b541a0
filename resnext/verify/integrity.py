"""Batch integrity: a row's logits depend on its image alone, not on the batch around it.

Needs no reference: the outputs of one session are compared with each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.files import Artifact, read_artifact
from resnext.artifact.manifest import Manifest
from resnext.artifact.specs import BatchRange
from resnext.errors import UsageError
from resnext.images.synthetic import seeded_pixels
from resnext.progress import track
from resnext.runtimes.registry import open_session
from resnext.runtimes.session import Session

from .batch_exam import Exam
from .check import check_bytes, natural_runtime
from .held.artifact import check_graph
from .laws import Integrity

#: Batch sizes to visit in an open range: odd ones, and both sides of usual tile widths.
SIZES = (1, 2, 3, 7, 8, 9, 16, 17, 33, 65)
#: The other sizes of an open range that are run once: all small ones, and those that users choose.
ONCE = (*range(1, 34), 48, 64, 96, 100, 128)
#: The sizes of a quick check.
QUICK_SIZES = (2, 8, 17)
#: Different images. Primes, so that rows that are shifted by any usual size show.
_DIFFERENT = 13
_QUICK_DIFFERENT = 5


def batch_integrity(
    artifact: Artifact | Path | str,
    *,
    runtime: str | None = None,
    batch: int | None = None,
    seed: int = 0,
    quick: bool = False,
) -> Integrity:
    """Check that an artifact computes each row of a batch independently of the others.

    Neither weights nor a reference are needed.

    Args:
        artifact: what `resnext_export.export` returned, or the path of its folder.
        runtime: runs it; None means the artifact's natural one.
        batch: the only batch size to examine besides the smallest; None means many sizes, and the
            ends of every range that the artifact takes.
        seed: of the images.
        quick: examine only a few sizes, and the laws that find most faults.

    Raises:
        UsageError: the artifact does not take that batch, or the runtime not that artifact.
        BadArtifact: file and manifest do not agree; or every law holds, but the graph is not the
            network's, so that others may be broken elsewhere.
        MissingRequirement: this machine lacks what the runtime needs.
    """
    artifact = artifact if isinstance(artifact, Artifact) else read_artifact(Path(artifact))
    manifest = artifact.manifest
    if seed < 0:
        raise UsageError(f"`seed` must be at least 0, not {seed}")
    if batch is not None and not manifest.takes(batch):
        raise UsageError(f"{artifact.path} takes batch {manifest.batches()}, not {batch}")
    check_bytes(artifact)
    with open_session(artifact, runtime or natural_runtime(artifact)) as session:
        outcome = artifact_integrity(
            session,
            manifest,
            sizes=None if batch is None else (batch,),
            seed=seed,
            quick=quick,
        )
    if outcome.passed:
        check_graph(artifact)  # a branch on a batch size that was not run
    return outcome


def artifact_integrity(
    session: Session,
    manifest: Manifest,
    *,
    sizes: Sequence[int] | None = None,
    seed: int = 0,
    quick: bool = False,
) -> Integrity:
    """`session_integrity` for an artifact that is open already, on seeded images."""
    pixels = seeded_pixels(manifest.config, _QUICK_DIFFERENT if quick else _DIFFERENT, seed)
    baked = manifest.preprocessing_baked
    return session_integrity(
        session,
        pixels if baked else manifest.preprocessing.normalize(pixels),
        ranges=manifest.batch_ranges,
        numerics=manifest.numerics,
        sizes=sizes,
        quick=quick,
        artifact_sha256=manifest.file_sha256,
    )


def session_integrity(
    session: Session,
    images: NDArray[Any],
    *,
    ranges: Sequence[BatchRange] | None,
    numerics: str,
    sizes: Sequence[int] | None = None,
    quick: bool = False,
    artifact_sha256: str | None = None,
) -> Integrity:
    """Check a session with one input and one output.

    Args:
        session: what to run.
        images: different images, at least two, in the form that the session takes.
        ranges: the artifact's batch sizes, which must run; those just past them must be refused.
            None for a live session, which takes any.
        numerics: key of `NUMERICS`, for the limits.
        sizes: batch sizes to examine; None means `SIZES` within ``ranges`` and their ends, and each
            of `ONCE` in one run.
        quick: as for `batch_integrity`.
        artifact_sha256: digest of the file that the session runs.
    """
    ranges = ranges or (BatchRange(min=1, opt=1, max=None),)
    exam = Exam(session, images, min(covered.min for covered in ranges), numerics)
    if exam.begin():
        chosen = visited(ranges, quick=quick) if sizes is None else sorted({*sizes})
        for turn, size in enumerate(track(chosen, f"batch integrity on {session.backend}")):
            if quick:
                exam.visit_quickly(size, odd=turn % 2 == 1)
            else:
                exam.visit(size)
        exam.first_again()
        if not quick:
            exam.bind(chosen)
        if sizes is None and not quick:
            for size in sorted({*_within(ranges, ONCE)}.difference(chosen)):
                exam.visit_once(size)
        if sizes is None:
            exam.pass_the_ends(ranges)
    return exam.ledger.outcome(
        backend=session.backend, quick=quick, artifact_sha256=artifact_sha256
    )


def timed_batch_integrity(
    session: Session,
    images: NDArray[Any],
    outputs: Iterable[NDArray[Any]],
    *,
    numerics: str,
    artifact_sha256: str | None = None,
) -> Integrity:
    """Check all rows of a batch that was timed, in six more runs of its size.

    Args:
        session: what was timed.
        images: the timed batch, different images.
        outputs: logits of timed runs of it.
        numerics: key of `NUMERICS`, for the limits.
        artifact_sha256: digest of the file that the session runs.
    """
    rows = np.arange(len(images))
    exam = Exam(session, images, len(images), numerics)
    if exam.begin():
        base = exam.ledger.base
        for output in outputs:
            exam.ledger.compare("timed", output.astype(np.float64), base, among=base)
        if len(rows) > 1:
            exam.permute(rows, np.roll(rows, 1), base)
            exam.replace(rows, rows % 2 == 0, base)
    return exam.ledger.outcome(backend=session.backend, quick=True, artifact_sha256=artifact_sha256)


def visited(ranges: Sequence[BatchRange], *, quick: bool) -> tuple[int, ...]:
    """Batch sizes to examine: the usual ones in ``ranges``, and the ends of each range."""
    usual = {*_within(ranges, QUICK_SIZES if quick else SIZES)}
    ends = {size for covered in ranges for size in (covered.min, covered.max) if size is not None}
    return tuple(sorted(usual | ends))


def _within(ranges: Sequence[BatchRange], sizes: Iterable[int]) -> Iterator[int]:
    return (size for size in sizes if any(size in covered for covered in ranges))
