"""The Pareto front of a search: the candidates that no other one beats at everything."""

from __future__ import annotations

from collections.abc import Iterable

from resnext_bench.pareto import pareto_front

from .record import CandidateRecord


def with_front(candidates: Iterable[CandidateRecord]) -> tuple[CandidateRecord, ...]:
    """``candidates`` in their order, each with `CandidateRecord.on_front` as it should be.

    What counts: p50, p99 if it is known of all that may be on the front, images/s, megabytes, and
    accuracy if it was measured.
    """
    every = tuple(candidates)
    able = [one for one in every if may_be_on_front(one)]
    with_p99 = all(one.p99_ns is not None for one in able)
    front = pareto_front([_costs(one, with_p99) for one in able])
    on_front = {id(one) for one, is_on in zip(able, front, strict=True) if is_on}
    return tuple(one.model_copy(update={"on_front": id(one) in on_front}) for one in every)


def may_be_on_front(one: CandidateRecord) -> bool:
    """Whether it was timed, met every gate, and could be chosen."""
    return (
        one.outcome in ("picked", "same", "slower", "not-measured")
        and one.p50_ns is not None
        and one.images_per_s is not None
        and all(gate.passed for gate in one.gates)
    )


def _costs(one: CandidateRecord, with_p99: bool) -> tuple[float | None, ...]:
    return (
        one.p50_ns,
        one.p99_ns if with_p99 else 0,
        None if one.images_per_s is None else -one.images_per_s,
        one.size_bytes,
        None if one.accuracy is None else -one.accuracy.top1,
    )
