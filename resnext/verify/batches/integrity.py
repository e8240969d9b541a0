"""Batch integrity: a row's logits depend on its image alone, not on the batch around it.

Needs no reference: the outputs of one session are compared with each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.artifact.foreign import open_artifact
from resnext.artifact.manifest import Manifest
from resnext.artifact.specs import BatchRange
from resnext.errors import UsageError
from resnext.progress import track
from resnext.runtimes.registry import open_session
from resnext.runtimes.session import Session

from ..check import check_bytes, natural_runtime
from ..held.artifact import check_graph
from ..inputs import seeded_inputs
from .exam import Exam
from .laws import Integrity, Logits

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
    artifact = artifact if isinstance(artifact, Artifact) else open_artifact(Path(artifact))
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
    return session_integrity(
        session,
        seeded_inputs(manifest, _QUICK_DIFFERENT if quick else _DIFFERENT, seed),
        ranges=session.batch_ranges or manifest.batch_ranges,  # a server may take fewer
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
        if quick:
            _visit_quickly(exam, session, chosen, ranges, {})
        else:
            for size in track(chosen, _step(session)):
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


def integrity_beside_parity(
    session: Session,
    manifest: Manifest,
    images: NDArray[Any],
    compared: Mapping[int, NDArray[Any]],
    others: NDArray[Any],
) -> tuple[Integrity, Logits | None]:
    """The quick check of an artifact whose parity is checked, too; no batch runs for both.

    Args:
        session: runs the artifact.
        manifest: of the artifact.
        images: what parity compared, in the form that the session takes.
        compared: their logits by batch size, all images in whole batches (`check.whole`).
        others: other inputs to compare; they replace rows for law ``neighbor``.

    Returns:
        The outcome, and the logits of ``others``, or None if a law is broken.
    """
    ranges = session.batch_ranges or manifest.batch_ranges
    smallest = min(covered.min for covered in ranges)
    known = {size: logits.astype(np.float64) for size, logits in compared.items()}
    if len(images) < _QUICK_DIFFERENT:  # a place in the batch would not show
        images, known = seeded_inputs(manifest, _QUICK_DIFFERENT), {}
    exam = Exam(session, images, smallest, manifest.numerics, others)
    if exam.begin(known[smallest][: len(images)] if smallest in known else None):
        for size, logits in known.items():
            exam.hold(logits, size)
        sizes = sorted({*visited(ranges, quick=True), *known})
        _visit_quickly(exam, session, sizes, ranges, known)
        exam.first_again()
        exam.pass_the_ends(ranges)
    outcome = exam.ledger.outcome(
        backend=session.backend, quick=True, artifact_sha256=manifest.file_sha256
    )
    return outcome, exam.logits_of_others(max(compared)) if outcome.passed else None


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


def _visit_quickly(
    exam: Exam,
    session: Session,
    sizes: Sequence[int],
    ranges: Sequence[BatchRange],
    known: Mapping[int, Logits],
) -> None:
    """Law ``size`` at each size, and ``neighbor`` at the smallest and the largest of each range: a
    leak that is below rounding is there from some size on or up to one.
    """
    outermost = set()
    for covered in ranges:
        inside = [size for size in sizes if size in covered and size > 1]
        outermost |= {*inside[:1], *inside[-1:]}
    odd = False
    for size in track(sizes, _step(session)):
        if size in outermost:
            odd = not odd
            exam.visit_quickly(size, odd=odd, known=known[size][:size] if size in known else None)
        elif size > 1 and size not in known:
            exam.visit_once(size)


def _step(session: Session) -> str:
    return f"batch integrity on {session.backend}"


def visited(ranges: Sequence[BatchRange], *, quick: bool) -> tuple[int, ...]:
    """Batch sizes to examine: the usual ones in ``ranges``, and the ends of each range."""
    usual = {*_within(ranges, QUICK_SIZES if quick else SIZES)}
    ends = {size for covered in ranges for size in (covered.min, covered.max) if size is not None}
    return tuple(sorted(usual | ends))


def _within(ranges: Sequence[BatchRange], sizes: Iterable[int]) -> Iterator[int]:
    return (size for size in sizes if any(size in covered for covered in ranges))
