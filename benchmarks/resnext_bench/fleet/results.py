"""The folder of a plan's results: a run for each group that was measured, a note for each that
failed or was lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from resnext.artifact.specs import Strict
from resnext.cluster.units import Settled
from resnext.errors import BadInput, UsageError
from resnext.readers.files import MOST_JSON, exists, read_file
from resnext.storage import write_text
from resnext_bench.result import Run, read_run
from resnext_bench.stored import read_stored

from .plan_file import Group, PlanFile, check_toolkit, read_plan

FORMAT_VERSION = 1
_PLAN, _NOTE = "plan.json", ".lost.json"


class Loss(Strict):
    """A group without a run.

    Attributes:
        format_version: of this file; readers refuse any other.
        name: id of the group; for one of each kind of machine, also the kind.
        status: ``FAILED``: its process ended without a run; ``LOST``: its machines were lost;
            ``missing``: it is to be run on a kind of machine that was there, and was not yet.
        reason: why, in one line.
        tries: machines that had it.
    """

    format_version: Literal[1] = 1
    name: str
    status: Literal["FAILED", "LOST", "missing"]
    reason: str = ""
    tries: int = 0


class Results:
    """A folder with results of one plan.

    Attributes:
        folder: the folder.
        plan: the plan.
    """

    def __init__(self, folder: Path, plan: PlanFile) -> None:
        self.folder, self.plan = folder, plan

    @classmethod
    def begin(cls, folder: Path, plan: PlanFile) -> Results:
        """The results of ``plan`` in ``folder``, new or begun earlier, maybe by other machines.

        Raises:
            BadInput: another version of the toolkit is to measure the plan.
            UsageError: there are those of another plan.
            MissingRequirement: it cannot be written.
        """
        check_toolkit(plan)
        kept = folder / _PLAN
        if exists(kept):
            if read_plan(kept) != plan:
                raise UsageError(
                    f"{folder} has results of another plan", hint="name another folder in `into`"
                )
        else:
            write_text(str(kept), plan.model_dump_json(indent=1) + "\n", final=False)
        return cls(folder, plan)

    @classmethod
    def read(cls, folder: Path) -> Results:
        """The results in ``folder``.

        Raises:
            BadInput: there are none.
        """
        if not exists(folder / _PLAN):
            raise BadInput(
                f"{folder} has no {_PLAN}", hint="name the folder that run-cells wrote into"
            )
        return cls(folder, read_plan(folder / _PLAN))

    def has(self, name: str) -> bool:
        """Whether the group, or its part for one kind of machine, was measured."""
        return exists(self._run(name))

    def expect(self, name: str) -> None:
        """Write down that there is to be a run of this name, which the plan does not say.

        Raises:
            MissingRequirement: it cannot be written.
        """
        if not exists(self._note(name)):
            self._write(Loss(name=name, status="missing"))

    def keep(self, settled: Settled) -> Loss | None:
        """Write what became of a group, whole or not at all; returns the loss, if it is one.

        Raises:
            MissingRequirement: it cannot be written.
        """
        name, note = settled.unit.id, self._note(settled.unit.id)
        if settled.receipt is not None:
            write_text(str(self._run(name)), settled.receipt.decode(), final=False)
            note.unlink(missing_ok=True)
            return None
        loss = Loss(
            name=name,
            status="LOST" if settled.lost else "FAILED",
            reason=settled.lost or str(settled.error),
            tries=settled.tries,
        )
        self._write(loss)
        return loss

    def runs(self, group: Group) -> Iterator[tuple[str, Run]]:
        """Names and runs of ``group``.

        Raises:
            BadInput: a file is no run.
        """
        for path in sorted(self.folder.glob(f"{group.id}*.json")):
            if not path.name.endswith(_NOTE):
                try:
                    yield path.stem, read_run(path)
                except BadInput as exc:
                    raise BadInput(
                        str(exc), hint="delete it, and the group is missing until it is run again"
                    ) from exc

    def losses(self, group: Group) -> Iterator[Loss]:
        """What was lost of ``group`` and not measured since.

        Raises:
            BadInput: a file is no note of a loss.
        """
        for path in sorted(self.folder.glob(f"{group.id}*{_NOTE}")):
            if not self.has(path.name.removesuffix(_NOTE)):
                yield read_stored(path, Loss, "loss", FORMAT_VERSION)

    def text(self, name: str) -> str:
        """The stored run of that name."""
        return read_file(self._run(name), MOST_JSON).decode()

    def _write(self, loss: Loss) -> None:
        text = loss.model_dump_json(indent=1) + "\n"
        write_text(str(self._note(loss.name)), text, final=False)

    def _run(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _note(self, name: str) -> Path:
        return self.folder / f"{name}{_NOTE}"
