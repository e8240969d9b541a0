"""The open sessions of a search, by the names of their candidates."""

from __future__ import annotations

import statistics
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from resnext.artifact.files import Artifact
from resnext.machine.load import Meter
from resnext.timing.clock import iterations_for
from resnext_bench.measure import Samples, as_failure, visit
from resnext_bench.opening import Opening

from .board import Board
from .workshop import Fall, GpuState, Workshop, fall_of_error

#: Timed runs of a visit, at least.
_LEAST_RUNS = 3


@dataclass
class _Open:
    """An open candidate.

    Attributes:
        opening: its session and artifact.
        stack: closes it.
        samples: of its visits.
        runs: timed runs of its next visit.
    """

    opening: Opening
    stack: ExitStack
    samples: Samples = field(default_factory=Samples)
    runs: int = _LEAST_RUNS


class Sessions:
    """Opens, proves, times and closes the candidates of ``board``.

    Args:
        board: what is known of them; digests and proofs go there.
        workshop: opens and proves.
        meter: reads the use of the processors around each visit.
        gpu_state: reads the GPU after each visit.

    Attributes:
        visit_ns: timed nanoseconds of a visit.
    """

    def __init__(
        self, board: Board, workshop: Workshop, meter: Meter | None, gpu_state: GpuState
    ) -> None:
        self._board, self._workshop = board, workshop
        self._meter, self._gpu_state = meter or Meter(), gpu_state
        self._open: dict[str, _Open] = {}
        self._artifacts: dict[str, Artifact | None] = {}
        self.visit_ns = 0.0

    def __contains__(self, name: str) -> bool:
        return name in self._open

    def opened(self, name: str) -> Fall | None:
        """Open a candidate unless it is open; why it could not be."""
        if name in self._open:
            return None
        stack = ExitStack()
        opening = self._workshop.open(self._board.points[name], stack)
        artifact = self._artifacts[name] = opening.artifact
        fall = None
        if opening.error is not None:
            fall = fall_of_error(opening.error)
        elif artifact is not None:
            fall = self._another(name, artifact.manifest.file_sha256)
            self._board.built(name, artifact.manifest)
        if fall is not None:
            stack.close()
        else:
            self._open[name] = _Open(opening, stack)
        return fall

    def run_s(self, name: str) -> float:
        """Seconds of a run of an open candidate; 0 if they are unknown."""
        one = self._open.get(name)
        return 0.0 if one is None else one.opening.run_s or 0.0

    def proven(self, name: str) -> Fall | None:
        """Prove an open candidate; why it is out."""
        record = self._board[name]
        same = (
            other.accuracy
            for other in self._board.records().values()
            if other.backend == record.backend and other.artifact_sha256 == record.artifact_sha256
        )
        known = next(filter(None, same), None)
        try:
            proof = self._workshop.prove(self._board.points[name], self._open[name].opening, known)
        except Exception as exc:  # whatever a runtime raises ends only its own candidate
            return fall_of_error(as_failure(exc))
        self._board.proven(name, proof)
        return proof.fall

    def time(self, name: str) -> tuple[tuple[int, ...], bool]:
        """Visit an open candidate.

        Returns:
            Nanoseconds of each timed run, and whether something disturbed the visit.

        Raises:
            ResnextError: the session failed.
        """
        one = self._open[name]
        assert one.opening.subject is not None
        try:
            visit(one.opening.subject, one.samples, one.runs, self._gpu_state, self._meter)
        except Exception as exc:  # of any library
            raise as_failure(exc) from exc
        times = tuple(one.samples.host_ns[-1])
        # Of all visits: a single quick one on a busy machine would make the next one endless.
        every = [*self._board[name].rounds_ns.values(), *one.samples.host_ns]
        mean_ns = sum(map(sum, every)) / sum(map(len, every))
        expected_ns = max(mean_ns, statistics.median(times))
        one.runs = iterations_for(self.visit_ns, expected_ns, least=_LEAST_RUNS)
        return times, len(one.samples.host_ns) - 1 in one.samples.disturbed

    def wrong_now(self, name: str) -> Fall | None:
        """What is wrong with the outputs of the last timed run; None if nothing is, or nothing was
        timed since the candidate was proven.
        """
        one = self._open.get(name)
        if one is None or one.samples.output is None:
            return None
        parity = self._workshop.timed_parity(self._board.points[name], one.opening, one.samples)
        self._board.change(name, parity=parity)
        if parity.passed:
            return None
        return Fall("gate", f"wrong output of a timed run: {'; '.join(parity.failures)}")

    def artifact(self, name: str) -> Artifact | None:
        """The artifact of a candidate, which is opened for it if it never was; None for the
        baseline, or if there is none.
        """
        if name not in self._artifacts and self.opened(name) is None:
            self.close(name)
        return self._artifacts.get(name)

    def close(self, name: str) -> None:
        """Close a candidate, if it is open."""
        if (one := self._open.pop(name, None)) is not None:
            with suppress(Exception):  # a session that failed may fail again
                one.stack.close()

    def close_all(self) -> None:
        """Close everybody."""
        for name in list(self._open):
            self.close(name)

    def _another(self, name: str, sha256: str) -> Fall | None:
        """The artifact of a candidate that has times is another than the one that was timed."""
        record = self._board[name]
        if not record.rounds_ns or record.artifact_sha256 == sha256:
            return None
        return Fall(
            "failed",
            "its artifact was built again and is another than the one that was measured",
            "search anew with `force`",
        )
