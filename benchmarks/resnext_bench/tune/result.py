"""The result of a search, in Python and as a file."""

from __future__ import annotations

from pathlib import Path

from pydantic import PrivateAttr

from resnext.artifact.files import Artifact, read_artifact
from resnext.errors import BadArtifact
from resnext_bench.stored import has_field, read_stored

from .page import tune_page
from .record import TuneRecord
from .report import text

FORMAT_VERSION = 1


class Tuned(TuneRecord):
    """Everything from one call of ``resnext-export tune``.

    Attributes:
        format_version: of this file; readers refuse any other.
        created: UTC time, ISO 8601.
        model: variant, or None for a configuration without a name.
        weights: source and digest.
        goal: what was made as good as it can be.
        gates: the requested limits, without actual values (`GateRecord.actual` is None).
        accuracy_source: labeled images; None without.
        budget_s: seconds that the search could take; None without a limit.
        spent_s: seconds that it took, earlier parts of a resumed search included.
        seed: of the images and of the order of visits.
        threads: CPU threads of a candidate that does not say.
        margin: share that counts as no difference.
        environment: machine and software.
        complete: False while the search runs, and after it was interrupted: ``--resume`` goes on.
        ended: why it ended; None while it runs.
        candidates: every point of the search, the pick first, then as they rank.
        pick: name of the chosen one; None if none passed.
        runner_up: name of the next best that passed; None if there is none.
        confirmed: the pick against the runner-up and against the baseline, in fresh processes.
        visits: number of visits that the race made.
        disturbed: number of these that something else on the machine disturbed.
        grid_visits: number of visits that measuring every candidate in every round would have made.
        command: name and arguments of the command that made it; empty for a search from Python.
    """

    _folder: Path | None = PrivateAttr(default=None)

    @property
    def artifact(self) -> Artifact:
        """The chosen artifact, read from the folder of the search.

        Raises:
            BadArtifact: there is none, or it is another by now.
        """
        if self._folder is None or self.pick is None:
            raise BadArtifact("the search has no artifact", hint="see its `table`")
        artifact = read_artifact(self._folder)
        sha256 = next(one.artifact_sha256 for one in self.candidates if one.name == self.pick)
        if artifact.manifest.file_sha256 != sha256:
            raise BadArtifact(f"{artifact.path} is not the file that was measured")
        return artifact

    def placed(self, folder: Path) -> Tuned:
        """The same search, its artifact in ``folder``."""
        copy = self.model_copy()
        copy._folder = folder
        return copy

    def table(self) -> str:
        """The verdict, the candidates that were measured, why the others fell, and commands."""
        return text(self)

    def html(self) -> str:
        """The search as a page: one file of HTML that needs no network and no script."""
        return tune_page(self)


def read_tuned(path: Path) -> Tuned:
    """Read a stored search.

    Raises:
        BadInput: missing, not JSON, or not a search of this format version.
    """
    return read_stored(path, Tuned, "search", FORMAT_VERSION).placed(path.parent)


def is_tuned(path: Path) -> bool:
    """Whether a file is meant to be a stored search.

    Raises:
        BadInput: it cannot be read.
    """
    return has_field(path, "candidates")
