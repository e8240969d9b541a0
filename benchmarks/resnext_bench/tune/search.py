"""One search: candidates are prepared and raced, and the fastest that meets every gate is chosen,
and measured again.

Knows no files: what opens, proves and measures again comes from outside.
"""

from __future__ import annotations

from collections.abc import Callable

from resnext.artifact.files import Artifact
from resnext.errors import BadArtifact, ResnextError
from resnext.machine.load import Meter
from resnext.timing.race import Rules
from resnext_bench.deadline import Deadline

from .board import Board
from .confirm import Confirmer, WrongOutput
from .front import with_front
from .preparing import Preparation
from .racing import Racing
from .record import CandidateRecord, ConfirmationRecord, Ended, TuneRecord
from .request import Request
from .result import Tuned
from .sessions import Sessions
from .space import Point, Refusal
from .workshop import Fall, GpuState, Workshop


class Search:
    """A search over the points of ``board``.

    Args:
        request: what was asked for.
        board: every candidate, cheapest build first, the baselines before all; of a resumed search
            with what is known.
        workshop: opens and proves candidates.
        confirmer: measures pairs of candidates in fresh processes.
        refusal: what is known against a point before it is built.
        deadline: of the search.
        say: called with a line at every step.
        save: called after every step.
        rules: of the race.
        meter: reads the use of the processors around each visit.
        gpu_state: reads the GPU after each visit.

    Attributes:
        board: as above.
        pick: name of the chosen candidate; None if nobody passed, or while it runs.
        runner_up: name of the next best.
        confirmed: what the fresh processes gave.
        preparation: what was opened.
    """

    def __init__(
        self,
        request: Request,
        board: Board,
        workshop: Workshop,
        confirmer: Confirmer,
        *,
        refusal: Callable[[Point], Refusal | None] = lambda _: None,
        deadline: Deadline | None = None,
        say: Callable[[str], None] = lambda _: None,
        save: Callable[[], None] = lambda: None,
        rules: Rules | None = None,
        meter: Meter | None = None,
        gpu_state: GpuState = lambda: None,
    ) -> None:
        self._request, self.board = request, board
        self._confirmer = confirmer
        self._deadline = deadline or Deadline()
        self._say, self._save = say, save
        self._rules = rules or Rules(margin=request.margin)
        self._sessions = Sessions(board, workshop, meter, gpu_state)
        self.preparation = Preparation(
            board,
            self._sessions,
            request.weights.config,
            refusal=refusal,
            deadline=self._deadline,
            say=say,
            save=save,
        )
        self._racing: Racing | None = None
        self.pick: str | None = None
        self.runner_up: str | None = None
        self.confirmed: tuple[ConfirmationRecord, ...] = ()

    @property
    def ended(self) -> Ended | None:
        """Why the race ended, or that the search was interrupted after it; None before."""
        if self._racing is None or self._racing.ended is None:
            return None
        return "interrupted" if self._deadline.interrupted else self._racing.ended

    @property
    def visits(self) -> int:
        """Of the race so far."""
        return 0 if self._racing is None else self._racing.visits

    @property
    def grid_visits(self) -> int:
        """Of measuring everybody of the race in every round."""
        return 0 if self._racing is None else self._racing.grid_visits

    def run(self) -> None:
        """Search. Every outcome is on the board afterwards, and every session closed."""
        try:
            self.preparation.run()
            self._racing = Racing(
                self.board,
                self._sessions,
                self._rules,
                seed=self._request.seed,
                deadline=self._deadline,
                say=self._say,
                save=self._save,
            )
            while (pick := self._racing.winner()) is not None:
                self._choose(pick)
                if self._confirmed(pick):
                    break
        finally:
            self._sessions.close_all()

    def artifact(self, name: str) -> Artifact:
        """The artifact of a candidate that has one.

        Raises:
            BadArtifact: it is gone, and could not be built again.
        """
        artifact = self._sessions.artifact(name)
        if artifact is None:
            raise BadArtifact(f"the artifact of {name} is gone", hint="search anew with `force`")
        return artifact

    def records(self) -> tuple[CandidateRecord, ...]:
        """Every candidate: the pick, those of the race as they rank, then the others."""
        first = [] if self.pick is None else [self.pick]
        ranking = () if self._racing is None else self._racing.race.ranking()
        names = [*first, *ranking, *self._baselines(), *self.board]
        return tuple(self.board[name] for name in dict.fromkeys(names))

    def recorded(self, base: TuneRecord, *, spent_s: float, complete: bool) -> Tuned:
        """The search as it is stored.

        Args:
            base: request and machine.
            spent_s: seconds that it took so far.
            complete: there is nothing to go on with.
        """
        found = {
            "spent_s": spent_s,
            "complete": complete,
            "ended": self.ended,
            "candidates": with_front(self.records()),
            "pick": self.pick,
            "runner_up": self.runner_up,
            "confirmed": self.confirmed,
            "visits": self.visits,
            "disturbed": base.disturbed + (0 if self._racing is None else self._racing.disturbed),
            "grid_visits": self.grid_visits,
        }
        return Tuned.model_construct(**dict(base) | found)

    def _choose(self, pick: str) -> None:
        """Settle everybody that is left, against ``pick``."""
        assert self._racing is not None
        race, board = self._racing.race, self.board
        self.pick = pick
        board.change(pick, outcome="picked", reason="", hint="")
        same, margin = race.same(), self._rules.margin
        for name in race.in_race:
            if name == pick:
                continue
            count, ratio = len(board[name].rounds_ns), board.ratio(name, pick)
            rounds = f"{count} round{'s' * (count != 1)}"
            slower = 0.0 if ratio is None else ratio[0] - 1
            if name in same:
                fall = Fall("same", f"as fast as the pick within {margin:.0%}")
            elif ratio is None:
                cut = "interrupted" if self._deadline.interrupted else "time was up"
                fall = Fall("not-measured", f"{cut} after {rounds}")
            elif slower <= margin:
                fall = Fall("same", f"not told apart from the pick in {rounds}")
            else:
                fall = Fall("slower", f"{100 * slower:.2g} % slower than the pick")
            board.fell(name, fall)
        self._relate(pick)
        passed = ("same", "slower", "not-measured")
        placed = [name for name in race.ranking() if board[name].outcome in passed]
        self.runner_up = placed[0] if placed else None

    def _confirmed(self, pick: str) -> bool:
        """Measure the pick again; False if it computes something else in a fresh process, and is
        out.
        """
        assert self._racing is not None
        try:
            self._confirm(pick)
        except WrongOutput as exc:
            wrong, self.pick, self.runner_up, self.confirmed = self.pick or pick, None, None, ()
            self._racing.fell(wrong, Fall("gate", exc.message))
            for name in self._racing.race.in_race:
                self.board.change(name, outcome="not-measured", reason="", hint="")
            return False
        return True

    def _relate(self, pick: str) -> None:
        """The ratio of everybody that was timed to ``pick``."""
        for name in self.board:
            if self.board[name].rounds_ns:
                ratio = None if name == pick else self.board.ratio(name, pick)
                self.board.change(name, ratio=ratio)

    def _confirm(self, pick: str) -> None:
        """Measure the pick again, beside the runner-up and the fastest baseline; if the runner-up
        is faster there, it is the pick.
        """
        if (other := self.runner_up) is not None:
            done = self._against(pick, other, share=0.4)
            if done is not None and done.verdict == "FASTER":
                if self._may_win(other):
                    self._swap(pick, other, done)
                    pick, done = other, self._against(other, pick, share=0.5)
                else:  # what may not win casts no doubt on the pick
                    self.runner_up = done = None
            self.confirmed = (done,) if done is not None else ()
        if base := self._baselines():
            done = self._against(pick, base[0], share=1.0)
            self.confirmed += (done,) if done is not None else ()
        self._save()

    def _baselines(self) -> list[str]:
        """Those that were timed, the fastest first."""
        board = self.board
        base = [name for name in board if board[name].outcome == "baseline"]
        return sorted((name for name in base if board[name].p50_ns is not None), key=self._time)

    def _time(self, name: str) -> float:
        """Nanoseconds of a run, or for throughput of an image."""
        point = self.board.points[name]
        return (self.board[name].p50_ns or 0.0) / self._request.per(point.batch, point.streams)

    def _against(self, pick: str, other: str, *, share: float) -> ConfirmationRecord | None:
        """``pick`` against ``other`` in ``share`` of the time that is left; None, with the reason
        in the progress, if a process fails or time is up.
        """
        if self._deadline.over():
            return None
        points = self.board.points
        artifacts = (self._sessions.artifact(pick), self._sessions.artifact(other))
        self._sessions.close_all()  # their threads and memory belong to the processes now
        try:
            most_s = share * self._deadline.left_s()
            return self._confirmer(points[pick], points[other], artifacts, most_s=most_s)
        except WrongOutput:
            raise
        except ResnextError as exc:
            self._say(f"not measured again beside {other}: {exc.message}")
            return None

    def _may_win(self, name: str) -> bool:
        """Whether the runner-up, too, has proven what was asked of its times."""
        assert self._racing is not None
        if (fall := self._racing.proven(name)) is None:
            return True
        self.board.fell(name, fall)
        return False

    def _swap(self, pick: str, other: str, done: ConfirmationRecord) -> None:
        """Make ``other`` the pick."""
        assert done.ratio is not None
        by = f"{100 * (1 / done.ratio[0] - 1):.2g} %"
        self.board.change(other, outcome="picked", reason="", hint="")
        self.board.fell(
            pick,
            Fall(
                "slower",
                f"it led the race, and in fresh processes {other} was faster: it took {by} longer",
            ),
        )
        self.pick, self.runner_up = other, pick
        self._relate(other)
