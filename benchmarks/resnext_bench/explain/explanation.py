"""An explanation: asks network, machine, weights and past, and lets the rules speak."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from resnext.artifact.files import Artifact
from resnext.errors import BadInput, MissingRequirement
from resnext.machine.environment import Environment, cpu_features, record_environment
from resnext.machine.machine import this_machine
from resnext.machine.nvml import open_nvml
from resnext.machine.threads import thread_budget
from resnext.network.config import ResNeXtConfig, variant_name
from resnext.verify.check import recorded_weights
from resnext.weights.shipped import SHIPPED
from resnext.weights.spec import Weights
from resnext_bench.limits.ceilings import MachineCeilings, stored_ceilings

from . import past
from .backends import backends_for, backends_here, capability_of, target_name
from .facts import Facts
from .record import ExpectationRecord, ExplanationRecord, StageRecord
from .search import searched
from .topics import RULES, expectation


@dataclass(frozen=True)
class Subject:
    """What an explanation is about.

    Attributes:
        config: the network.
        weights: of it; None if only the network is known.
        artifact: that was made of it, or None.
    """

    config: ResNeXtConfig
    weights: Weights | None = None
    artifact: Artifact | None = None


def subject_of_artifact(
    artifact: Artifact, spec: str | None, note: Callable[[str], None]
) -> Subject:
    """An artifact, with its weights if they can be found.

    Args:
        artifact: of a network of ours.
        spec: where they are now; None means where the manifest says.
        note: called with one line if they cannot.

    Raises:
        UsageError: it is an ONNX file from elsewhere, whose network is not known.
        BadWeights: ``spec`` are others.
    """
    config = artifact.manifest.network
    weights = None
    if spec is not None or not artifact.manifest.weights.seeded:
        try:
            weights = recorded_weights(artifact, spec)
        except (BadInput, MissingRequirement) as exc:
            if spec is not None:
                raise
            note(f"nothing is said of the values of the weights: {exc}")
    return Subject(config, weights, artifact)


def explain(
    subject: Subject,
    *,
    batch: int = 8,
    backends: Iterable[str] | None = None,
    target: tuple[int, int] | None = None,
    history: Path | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> ExplanationRecord:
    """What to expect from each precision and from merged groups. Builds and times nothing.

    Args:
        subject: network, with weights and artifact if there are any.
        batch: images in one run.
        backends: runtimes; None means all that this machine has, or those that build for
            ``target``.
        target: compute capability of a GPU that is not here.
        history: folder of stored runs; None means every folder whose history was read before.
        note: called with one line for what a user should know of.

    Raises:
        UnknownName: no such backend.
        UsageError: a backend does not run on ``target``, or TensorRT does not build for it.
        BadInput: ``history`` cannot be read.
    """
    notes: list[str] = []

    def remark(line: str) -> None:
        notes.append(line)
        note(line)

    with open_nvml() as nvml:
        environment = record_environment(nvml)
    facts = _with_machine(Facts(subject.config, batch), environment, backends, target, remark)
    for each in facts.backends:
        if each.problem:
            hint = "; name another machine's GPU in `target`" * (target is None)
            remark(f"{each.name} is left out: {each.problem}{hint * (each.device == 'cuda')}")
    facts = _with_artifact(facts, subject, remark)
    if target is None:
        asked = None if backends is None else {each.name for each in facts.backends}
        facts = _with_past(facts, subject, environment, asked, history, remark)
    elif history is not None:
        remark("`history` is not used: it is of this machine, and `target` is not")
    return ExplanationRecord(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        model=variant_name(subject.config),
        weights=_source(subject),
        machine=environment.title(),
        target=None if target is None else target_name(target),
        backends={each.name: each.problem for each in facts.backends},
        batch=batch,
        macs=sum(layer.macs for layer in facts.layers),
        parameters=sum(layer.weights for layer in facts.layers),
        ceilings=None if facts.ceilings is None else _ceilings(facts.ceilings),
        stages=tuple(
            StageRecord(
                stage=each.stage,
                kind=each.kind,
                layers=each.layers,
                channels=each.channels,
                macs=each.macs,
                weights=each.weights,
                floors_ns={name: floor.seconds * 1e9 for name, floor in each.floors.items()},
                limited_by={name: floor.limited_by for name, floor in each.floors.items()},
            )
            for each in facts.stages
        ),
        topics=tuple(
            ExpectationRecord(topic=each.topic, outlook=each.outlook, sentences=each.sentences)
            for each in (expectation(facts, topic) for topic in RULES)
        ),
        notes=tuple(notes),
    )


def _with_machine(
    facts: Facts,
    environment: Environment,
    names: Iterable[str] | None,
    target: tuple[int, int] | None,
    note: Callable[[str], None],
) -> Facts:
    if target is not None:
        gpu = f"a GPU of {target_name(target)}", target
        return replace(facts, gpu=gpu, backends=backends_for(names, target))
    features, machine = cpu_features(), this_machine()
    found = backends_here(names, features, machine)
    first = machine.driver.gpus[0] if machine.driver.gpus else None
    on_gpu = any(each.device == "cuda" and not each.problem for each in found)
    ceilings = (
        stored_ceilings(environment, "cuda", None, note)
        if on_gpu
        else stored_ceilings(environment, "cpu", thread_budget().count, note)
    )
    if ceilings is not None and ceilings.disturbed:
        note(f"floors may be too long: {'; '.join(ceilings.disturbed)} when they were measured")
    return replace(
        facts,
        features=features,
        gpu=None if first is None else (first.name, capability_of(first.compute_capability)),
        backends=found,
        ceilings=ceilings,
    )


def _with_artifact(facts: Facts, subject: Subject, note: Callable[[str], None]) -> Facts:
    weights = subject.weights
    manifest = None if subject.artifact is None else subject.artifact.manifest
    groups = {} if manifest is None or manifest.merged is None else manifest.merged.groups
    source = weights.source if weights is not None else ""
    values = None
    if weights is not None:
        from .values import values_of

        values = values_of(weights)
    else:
        note("without trained weights, nothing is said of what rounding does to them")
    calibrated = source in SHIPPED and SHIPPED[source].config == facts.config
    return replace(facts, groups=groups, values=values, calibrated=calibrated)


def _with_past(
    facts: Facts,
    subject: Subject,
    environment: Environment,
    asked: Collection[str] | None,
    history: Path | None,
    note: Callable[[str], None],
) -> Facts:
    sha256 = None if subject.weights is None else subject.weights.sha256
    if subject.artifact is not None:
        sha256 = subject.artifact.manifest.weights.sha256
    found = past.timed_here(environment, variant_name(facts.config), history, note)
    timed = tuple(row for row in found if asked is None or row.backend in asked)
    if history is not None and found and not timed:
        note(f"{history} has times of other runtimes only")
    seen = tuple(past.made(sha256, facts.config, asked))
    if (artifact := subject.artifact) is not None:
        rows, fallen = searched(artifact, environment, asked, note)
        seen += (*past.told(artifact.manifest, asked), *past.proven(artifact, environment, asked))
        timed, seen = (*rows, *timed), (*seen, *fallen)
    return replace(facts, timed=timed, seen=seen)


def _source(subject: Subject) -> str | None:
    if subject.weights is not None:
        return subject.weights.source
    return None if subject.artifact is None else subject.artifact.manifest.weights.source


def _ceilings(ceilings: MachineCeilings) -> str:
    count = ceilings.threads
    threads = "" if count is None else f", {count} thread{'s' * (count > 1)}"
    return f"{ceilings.machine}{threads}, measured {ceilings.created[:10]}"
