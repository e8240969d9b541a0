"""How much builds of the same request differ: in bytes, in speed, in answers."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.progress import working
from resnext.runtimes.compatibility import loadable, machine_for
from resnext.runtimes.registry import open_session
from resnext.runtimes.session import Bound, Boundary, Session
from resnext.timing.clock import iterations_for, time_device, time_host, time_visit
from resnext.timing.interleave import shuffled, turns
from resnext.timing.paired import Ratio, ratio_by_round
from resnext.verify.check import batched, natural_runtime
from resnext.verify.inputs import seeded_inputs

from .pipeline import rebuild

#: Images whose answers are compared, at least.
_IMAGES = 256
#: Rounds of interleaved timing, and the timed nanoseconds of each build in a round.
_ROUNDS, _VISIT_NS = 5, 200e6


@dataclass(frozen=True)
class Build:
    """One of several builds of the same request.

    Attributes:
        sha256: digest of the file.
        size_bytes: size of the file.
        rounds_ns: nanoseconds of each timed run, by round; empty if this machine cannot run it.
        flips: images whose first class is another than in the first build; None if not run.
    """

    sha256: str
    size_bytes: int
    rounds_ns: tuple[tuple[int, ...], ...] = ()
    flips: int | None = None

    @property
    def median_ms(self) -> float | None:
        """Median time of a run; None if it was not timed."""
        times = [each for visit in self.rounds_ns for each in visit]
        return statistics.median(times) / 1e6 if times else None


@dataclass(frozen=True)
class Spread:
    """Several builds of the same request, compared.

    Attributes:
        builds: the builds, in order.
        runtime: runtime that ran them.
        batch: images in a timed run.
        boundary: what a time encloses; None if this machine cannot run the builds.
        images: number of images whose answers were compared.
        reason: why this machine cannot run them; "" if it can.
    """

    builds: tuple[Build, ...]
    runtime: str
    batch: int
    boundary: Boundary | None = None
    images: int = 0
    reason: str = ""

    @property
    def distinct(self) -> int:
        """Number of different files."""
        return len({build.sha256 for build in self.builds})

    def ratio(self, index: int) -> Ratio:
        """Time of a build over that of the first, round by round."""
        return ratio_by_round(self.builds[index].rounds_ns, self.builds[0].rounds_ns)


def spread(
    path: Path, times: int, *, check: bool = True, say: Callable[[str], None] = lambda _: None
) -> Spread:
    """Build what the manifest of an artifact requests, ``times`` times, and compare the builds.

    Steps before the last come from the store, so they are the same for all. Nothing is kept.

    Args:
        path: folder of the artifact; only the manifest is read.
        times: number of builds, at least 2.
        check: compare each with PyTorch.
        say: called with one line for what a user should know.

    Raises:
        ResnextError: as `rebuild`.
    """
    with TemporaryDirectory(prefix="resnext-") as scratch:
        artifacts = []
        for number in range(times):
            with working(f"build {number + 1} of {times}"):
                folder = Path(scratch) / str(number)
                artifacts.append(
                    rebuild(path, folder, check=check, say=say if number == 0 else _quiet)
                )
        return compared(artifacts)


def compared(artifacts: list[Artifact]) -> Spread:
    """Compare builds of the same request: bytes; and, if this machine can run them, interleaved
    times and answers.
    """
    first = artifacts[0].manifest
    runtime, batch = natural_runtime(artifacts[0]), first.batch.opt
    builds = [Build(each.manifest.file_sha256, each.manifest.file_size_bytes) for each in artifacts]
    if findings := loadable(first, machine_for(first)):
        return Spread(tuple(builds), runtime, batch, reason=str(findings[0]))
    images = seeded_inputs(first, -(-_IMAGES // batch) * batch)
    with ExitStack() as stack:
        sessions = [stack.enter_context(open_session(each, runtime)) for each in artifacts]
        answers = [batched(session, images, batch).argmax(axis=1) for session in sessions]
        bounds = [stack.enter_context(_bound(session, images[:batch])) for session in sessions]
        rounds = _timed(bounds)
        boundary = bounds[0].boundary
    return Spread(
        tuple(
            Build(build.sha256, build.size_bytes, times, int((answer != answers[0]).sum()))
            for build, times, answer in zip(builds, rounds, answers, strict=True)
        ),
        runtime,
        batch,
        boundary,
        len(images),
    )


def _bound(session: Session, images: NDArray[Any]) -> Bound:
    spec = session.inputs[0]
    return session.bind({spec.name: np.ascontiguousarray(spec.cast(images))})


def _timed(bounds: list[Bound]) -> list[tuple[tuple[int, ...], ...]]:
    """Nanoseconds of each run, by round, of every bound input; all take turns."""

    def once(bound: Bound) -> None:
        bound.enqueue()
        bound.synchronize()

    counts = [
        iterations_for(_VISIT_NS, min(time_host(lambda bound=bound: once(bound), 3)))  # type: ignore[misc]
        for bound in bounds
    ]
    rounds: list[list[tuple[int, ...]]] = [[] for _ in bounds]
    for _, index in turns(range(len(bounds)), _ROUNDS, shuffled(0)):
        bound, count = bounds[index], counts[index]
        if bound.boundary == "host":
            times = time_visit(lambda bound=bound: once(bound), count)  # type: ignore[misc]
        else:
            times = time_device(bound, count)[0]
        rounds[index].append(tuple(times))
    return [tuple(each) for each in rounds]


def _quiet(_: str) -> None:
    pass
