"""A search that is not finished, in a file beside its output: kept after every step, and gone on
with.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from resnext.errors import BadInput, MissingRequirement, UsageError
from resnext.machine.environment import Environment
from resnext.readers.files import exists
from resnext.storage import held, write_whole

from .board import Board
from .gates import limit_text
from .record import CandidateRecord, TuneRecord
from .result import Tuned, read_tuned
from .space import METHODS, Point

#: Longest name of an output that its state is called after, bytes.
_MOST_NAMED = 200
_ANEW = "search anew with `force`"


def state_path(output: Path) -> Path:
    """The file for the search whose artifact goes to the folder ``output``: ``best.tune.json`` for
    ``best/``; a digest stands for a name that is too long.
    """
    output = output.absolute()
    name = output.name
    if len(os.fsencode(name)) > _MOST_NAMED:  # no room for the ending
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return output.with_name(f"{name}.tune.json")


@contextmanager
def only_search(output: Path) -> Iterator[None]:
    """Keep other searches for the same ``output`` out while the block runs.

    Raises:
        UsageError: another one runs.
        MissingRequirement: the file for that cannot be made.
    """
    path = state_path(output)
    with ExitStack() as stack:
        try:
            alone = stack.enter_context(held(path.with_name(f".{path.name}.lock")))
        except OSError as exc:
            raise _cannot_write(path, exc) from exc
        if not alone:
            raise UsageError(
                f"another search for {output} runs", hint="wait for it, or choose another `output`"
            )
        yield


def earlier_search(output: Path, *, resume: bool, force: bool) -> Tuned | None:
    """The search to go on with; None to begin a new one.

    Raises:
        UsageError: there is none to go on with, or one that is neither gone on with nor dropped.
        BadInput: its file is damaged.
    """
    path = state_path(output)
    if resume and force:
        raise UsageError("`resume` goes on with a search, and `force` begins anew", hint="give one")
    if not exists(path):
        if resume:
            raise UsageError(f"there is no search to go on with: no {path}", hint="drop `resume`")
        return None
    if not resume and not force:
        raise UsageError(
            f"{path} is of a search that has no result yet",
            hint="go on with it with `resume`, or begin anew with `force`",
        )
    return read_tuned(path) if resume else None


def keep(record: TuneRecord, output: Path) -> None:
    """Keep ``record`` as the state of the search for ``output``.

    Raises:
        MissingRequirement: the file cannot be written.
    """
    path = state_path(output)
    try:
        write_whole(path, record.model_dump_json().encode() + b"\n")
    except OSError as exc:
        raise _cannot_write(path, exc) from exc


def _cannot_write(path: Path, exc: OSError) -> MissingRequirement:
    full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
    return MissingRequirement(
        f"cannot write {path}: {exc.strerror or exc}",
        hint="free some space there, or choose another `output`"
        if full
        else "choose another `output`",
    )


def restore(board: Board, earlier: TuneRecord, now: TuneRecord) -> None:
    """Put what ``earlier`` knows onto ``board``.

    What depends on the race is left to the race, which goes through its rounds again.

    Args:
        board: the candidates of the same request, fresh.
        earlier: the search to go on with.
        now: request and machine of this one, without candidates.

    Raises:
        BadInput: it was of another request, machine, software or weights.
    """
    known = {one.name: one for one in earlier.candidates}
    added = [one for one in earlier.candidates if one.name not in board]
    difference = next(_differences(earlier, now), None)
    if difference is None:
        for name in board:
            if name not in known or not _alike(known[name], board):
                difference = f"it has no candidate {name} as it is now"
                break
        for one in added:
            if not _another_method(one, board):
                difference = difference or f"it has {one.name}, which this request has not"
    if difference is not None:
        raise BadInput(f"the search to go on with is another one: {difference}", hint=_ANEW)
    for one in added:
        board.add(_point(one, board))
    for one in earlier.candidates:
        fields: dict[str, Any] = {"ratio": None, "on_front": False}
        raced = bool(one.rounds_ns) and one.outcome not in ("failed", "baseline")
        if raced or one.outcome == "not-measured":
            fields |= {"outcome": "not-measured", "reason": "", "hint": ""}
        board.put(one.model_copy(update=fields))


def _differences(earlier: TuneRecord, now: TuneRecord) -> Iterator[str]:
    """In what two searches differ."""
    for name in ("goal", "gates", "accuracy_source", "seed", "threads", "margin"):
        before, after = getattr(earlier, name), getattr(now, name)
        if before != after:
            field = {"gates": "gate", "accuracy_source": "accuracy"}.get(name, name)
            yield f"`{field}` was {_shown(before)}, and is {_shown(after)}"
    if earlier.weights.sha256 != now.weights.sha256:
        yield f"its weights were {earlier.weights.source} of another digest"
    yield from _other_machine(earlier.environment, now.environment)


def _other_machine(before: Environment, after: Environment) -> Iterator[str]:
    for name in ("cpu", "physical_cores", "system", "python"):
        if getattr(before, name) != getattr(after, name):
            yield f"the {name.replace('_', ' ')} was {getattr(before, name)}"
    if [gpu.name for gpu in before.gpus] != [gpu.name for gpu in after.gpus]:
        yield "the GPUs were others"
    for package in before.packages.keys() | after.packages.keys():
        versions = before.packages.get(package), after.packages.get(package)
        if versions[0] != versions[1]:
            yield f"{package} was {versions[0] or 'missing'}, and is {versions[1] or 'missing'}"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(limit_text(gate) for gate in value) or "none"
    return str(value)


def _alike(one: CandidateRecord, board: Board) -> bool:
    """Whether a candidate is made and measured as the one of that name on ``board``."""
    return board.makes(one.name, one.export_command) and (
        one.bench_command == board[one.name].bench_command
    )


def _point(one: CandidateRecord, board: Board) -> Point:
    """The point of a candidate that the request does not have by itself: another calibration
    method of one that it has.
    """
    base = next(point for name, point in board.points.items() if _place(board[name]) == _place(one))
    return replace(base, method=one.calibration_method)


def _another_method(one: CandidateRecord, board: Board) -> bool:
    """Whether the request has ``one`` with the first calibration method."""
    if one.calibration_method in (None, METHODS[0]):
        return False
    return any(_place(board[name]) == _place(one) for name in board)


def _place(one: CandidateRecord) -> tuple[object, ...]:
    return one.backend, one.precision, one.merge_groups, one.batch, one.threads, one.streams
