"""What the search beside an artifact measured, and what fell in it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from resnext.artifact.files import SEARCH_NAMES, Artifact
from resnext.errors import BadInput
from resnext.machine.environment import Environment
from resnext.readers.files import exists
from resnext_bench.tune.record import CandidateRecord
from resnext_bench.tune.result import read_tuned
from resnext_bench.tune.standing import doubts

from .facts import Seen, Timed

#: What a search leaves beside its artifact.
TUNE_NAME = SEARCH_NAMES[0]
#: How a search says that a candidate did not pass.
_FELL = ("refused", "failed", "gate")
#: Rounds with fewer of which a time of a search tells nothing of another: no interval is known.
_LEAST_ROUNDS = 6


def searched(
    artifact: Artifact,
    environment: Environment,
    asked: Collection[str] | None,
    note: Callable[[str], None],
) -> tuple[tuple[Timed, ...], tuple[Seen, ...]]:
    """What the search that chose ``artifact`` timed on this machine, and what fell in it.

    Args:
        artifact: beside which the search may lie.
        environment: this machine.
        asked: runtimes that are asked about; None: all.
        note: called with one line if the search cannot be used.
    """
    path = artifact.directory / TUNE_NAME
    if not exists(path):
        return (), ()
    try:
        record = read_tuned(path)
    except BadInput as exc:
        note(f"{path} cannot be used: {str(exc).splitlines()[0]}")
        return (), ()
    if record.environment.title() != environment.title():
        note(f"{path} is of another machine: {record.environment.title()}")
        return (), ()
    if artifact.manifest.file_sha256 not in {each.artifact_sha256 for each in record.candidates}:
        note(f"{path} is of another artifact")  # whose network may be another, too
        return (), ()
    day = record.created[:10]
    doubt = "; ".join(doubts(record))
    candidates = [each for each in record.candidates if asked is None or each.backend in asked]
    times = tuple(
        Timed(
            TUNE_NAME,
            day,
            each.backend,
            each.precision,
            each.merge_groups is not None,
            each.batch,
            each.p50_ns,
            streams=each.streams,
            doubt=doubt,
        )
        for each in candidates
        if each.p50_ns is not None and len(each.rounds_ns) >= _LEAST_ROUNDS
    )
    return times, tuple(_fallen(candidates, day))


def _fallen(candidates: Iterable[CandidateRecord], day: str) -> Iterator[Seen]:
    """The precisions of which no candidate passed."""
    by_precision: dict[str, list[CandidateRecord]] = {}
    for each in candidates:
        if each.outcome != "baseline":
            by_precision.setdefault(each.precision, []).append(each)
    for precision, every in by_precision.items():
        if any(each.outcome not in _FELL for each in every):
            continue
        # A refusal may be for want of images or of a runtime, and tells nothing of it.
        tried = [each for each in every if each.outcome != "refused"]
        first = (tried or every)[0]
        what = "no candidate passed" if tried else "every candidate was refused"
        yield Seen(
            precision,
            f"In a search {what}; {first.name}: {first.reason}".rstrip(".") + ".",
            day,
            TUNE_NAME,
            "no use" if len(tried) == len(every) else None,
            "measured" if tried else "known",
        )
