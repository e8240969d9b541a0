"""The interface of a scenario, and a row's way through all that were requested."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from resnext.artifact.files import Artifact
from resnext.artifact.specs import Strict
from resnext.errors import NeverReturned, ResnextError
from resnext.runtimes.registry import SessionOptions
from resnext.verify.subject import Network
from resnext_bench.deadline import Deadline
from resnext_bench.measure import Samples, Subject, as_failure
from resnext_bench.plan import Case

#: Fields that every run fills if it can: out of time they stay empty, and nobody misses them.
UNREQUESTED = ("energy",)
#: Fields that are about the process, or the machine, which runs the network: nobody knows them of a
#: server.
OF_THE_PROCESS = ("energy", "cold_start")


@dataclass(frozen=True)
class Stage:
    """A measured row, as a scenario meets it.

    Attributes:
        case: backend, batch size, candidate.
        subject: its open session with its input.
        samples: of the timed rounds.
        network: what the row is compared with; a live network runs its weights.
        artifact: the artifact that runs; None for a live network.
        seed: of the run.
        deadline: a scenario checks it between steps, and reports what it has once it is over.
        say: called with one line at every step.
        options: what the session was opened with.
    """

    case: Case
    subject: Subject
    samples: Samples
    network: Network
    artifact: Artifact | None
    seed: int
    deadline: Deadline
    say: Callable[[str], None] = lambda _: None
    options: SessionOptions = field(default_factory=SessionOptions)


class Scenario(Protocol):
    """Uses a session in another way than the timed rounds do: under load, for hours, for energy."""

    @property
    def field(self) -> str:
        """Field of `Row` for the record."""

    def __call__(self, stage: Stage) -> Strict | None:
        """The record of one row; None if this machine cannot tell.

        Raises:
            ResnextError: the scenario failed, which makes the row invalid.
        """


@dataclass(frozen=True)
class Passes:
    """Outcome of a row's scenarios.

    Attributes:
        records: by field of `Row`.
        errors: of scenarios that failed, by field.
    """

    records: Mapping[str, Strict] = field(default_factory=dict)
    errors: Mapping[str, ResnextError] = field(default_factory=dict)


def go_through(scenarios: Sequence[Scenario], stage: Stage) -> Passes:
    """Take one row through all ``scenarios``, one after the other. An error ends only its own, but
    a session whose run never returned runs nothing more: its row fails. A served model has no
    `OF_THE_PROCESS`.
    """
    records: dict[str, Strict] = {}
    errors: dict[str, ResnextError] = {}
    for scenario in scenarios:
        late = stage.deadline.over()
        if late and scenario.field in UNREQUESTED:
            continue
        if scenario.field in OF_THE_PROCESS and stage.subject.session.served:
            continue
        if late:
            errors[scenario.field] = stage.deadline.not_measured()
            continue
        try:
            record = scenario(stage)
        except NeverReturned as exc:
            errors[scenario.field] = stage.samples.error = exc
            break
        except Exception as exc:  # whatever a runtime raises ends only its own scenario
            errors[scenario.field] = as_failure(exc)
            continue
        if record is not None:
            records[scenario.field] = record
    return Passes(records, errors)
