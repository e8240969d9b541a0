"""A search for bad blocks on a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from .record import Bisection, Damage

_BAR = 24


def headline(found: Bisection) -> str:
    """How it ended, of which file on what."""
    return f"{found.word}  {found.artifact} on {found.runtime}: {found.reason}"


def report(found: Bisection) -> Iterator[str]:
    """Lines: the gate, what each block loses, what was built, the price, the command."""
    yield f"sha256     {found.artifact_sha256}"
    agreement = "" if found.agreement is None else f", top-1 agreement {found.agreement:.2%}"
    yield f"gate       {found.gate}, {found.precision}{agreement}; {found.images} {found.source}"
    if found.damage:
        yield ""
        yield from _table(found.damage)
        yield ""
    for attempt in found.attempts[1:]:
        top1 = "" if attempt.top1 is None else f", top-1 agrees on {attempt.top1:.2%}"
        ended = "meets it" if attempt.passed else f"misses it: {attempt.failures[0]}"
        yield f"build      {attempt.what}: {ended}{top1}"
    if found.price is not None:
        yield f"price      {found.price}"
    elif found.outcome == "mended":
        yield f"price      not measured: the time of {found.runtime} means nothing"
    if found.command:
        yield f"command    {found.command}"


def _table(damage: tuple[Damage, ...]) -> Iterator[str]:
    width = max(len("block"), *(len(each.block) for each in damage))
    most = max(each.error or 0.0 for each in damage) or 1.0
    yield f"{'block':{width}}  error alone  {'':{_BAR}}  share of work"
    for each in damage:
        share = 1.0 if each.error is None else each.error / most
        error = "not finite" if each.error is None else f"{each.error:.2e}"
        bar, kept = "#" * round(share * _BAR), "  stays float" * each.kept
        yield f"{each.block:{width}}  {error:>11}  {bar:{_BAR}}  {each.macs_share:13.1%}{kept}"
