"""The test cases of ``resnext-parity --junit``: each limit, kind of input, law and picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .junit import JUnitCase

if TYPE_CHECKING:
    from resnext.artifact.files import Artifact
    from resnext.verify.batches.laws import Integrity
    from resnext.verify.parity import Parity
    from resnext.verify.pixels import PixelComparison


def classname(artifact: Artifact, runtime: str) -> str:
    """The class of an artifact's cases: the runtime, and the name of its folder or bare file."""
    name = artifact.path.stem if artifact.bare else artifact.directory.resolve().name
    return f"{runtime}.{name.replace('.', '_')}"


def cases_of_parity(outcome: Parity, classname: str) -> Iterator[JUnitCase]:
    """A case for the whole, one for each limit of the gate, one for each kind of input."""
    yield _case("parity", classname, outcome.failures)
    for limit in outcome.limits:
        bound = "at least" if limit.at_least else "at most"
        failure = f"{limit.name} is {limit.actual:.3g}, allowed {bound} {limit.allowed:.3g}"
        yield _case(f"limit {limit.name}", classname, () if limit.passed else [failure])
    for kind in outcome.inputs:
        name = f"input {kind.name}"
        if kind.max_error is not None and not kind.max_error <= kind.allowed:
            failure = f"max error {kind.max_error:.2e}, allowed {kind.allowed:.1e}"
            yield _case(name, classname, [failure])
        elif not kind.finite:
            yield _case(name, classname, ["a logit is NaN or infinite"])
        elif kind.max_error is None and kind.left_out:
            reason = "the precision itself overflows there"
            yield JUnitCase(name, classname, "skipped", reasons=[reason])
        else:
            yield JUnitCase(name, classname)


def cases_of_integrity(outcome: Integrity, classname: str) -> Iterator[JUnitCase]:
    """A case for each law of batch integrity."""
    for law in outcome.laws:
        failures = [law.failure] if law.failure else []
        yield _case(f"batch-{law.law}", classname, failures)


def cases_of_pixels(outcome: PixelComparison, classname: str) -> Iterator[JUnitCase]:
    """A case for the whole, one for each picture of the conformance kit, one for each mistake."""
    yield _case("pixels", classname, () if outcome.same else ["the pixels differ"])
    for picture in outcome.pictures:
        failure = f"differs by {picture.largest:.2f} gray levels, allowed {picture.allowed:g}"
        yield _case(f"picture {picture.name}", classname, () if picture.same else [failure])
    for mistake in outcome.mistakes:
        yield _case(f"mistake {mistake.code}", classname, [mistake.message])


def _case(name: str, classname: str, failures: tuple[str, ...] | list[str]) -> JUnitCase:
    """Passed without ``failures``; the name is the code of the failure."""
    return JUnitCase(name, classname, "failure" if failures else "passed", name, failures)
