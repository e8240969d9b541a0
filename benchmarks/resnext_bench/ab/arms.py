"""From what the user names to two arms: a backend and what it runs, built here if it is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from resnext.artifact.files import Artifact, read_artifact
from resnext.errors import UnknownName, UsageError
from resnext.precision import Precision
from resnext.readers.files import exists
from resnext.runtimes.availability import require
from resnext.runtimes.registry import (
    LOCAL_RUNTIMES,
    RUNTIMES,
    Device,
    check_device,
    check_precision,
    check_subject,
    natural_runtime,
)
from resnext.verify.check import artifact_weights
from resnext.weights.spec import Weights, load_weights
from resnext_bench.artifacts import Artifacts
from resnext_bench.cases import Candidate
from resnext_bench.plan import Case


@dataclass(frozen=True)
class Arm:
    """One side of a comparison.

    Attributes:
        name: ``A`` or ``B``.
        subject: as the user named it.
        backend: registry name.
        precision: of weights and activations.
        artifact: what the backend runs; None for a live network.
        graph: the ONNX artifact that it is or was built from; None if there is none.
        weights: that its outputs are judged by.
        python: interpreter of another environment; None for this one.
    """

    name: str
    subject: str
    backend: str
    precision: Precision
    artifact: Artifact | None
    graph: Artifact | None
    weights: Weights
    python: Path | None = None

    def __str__(self) -> str:
        return f"arm {self.name}"


@dataclass(frozen=True)
class Choices:
    """What both arms have in common.

    Attributes:
        batch: images in one run.
        backend: runtime for artifacts; None for the natural one of each.
        precision: of everything built from the weights.
        device: to run on.
    """

    batch: int = 1
    backend: str | None = None
    precision: Precision = "fp32"
    device: Device = "auto"


def arms_of(
    subjects: tuple[str, str],
    choices: Choices,
    weights: Weights | str | None,
    python: Path | None,
    say: Callable[[str], None],
) -> tuple[Arm, Arm]:
    """Both arms.

    Args:
        subjects: a backend, or the folder of an artifact, for each.
        choices: what they have in common.
        weights: loaded or by SPEC; None means those of the first artifact, or without one the
            seeded ResNeXt-50 32x4d. An artifact of other weights of the same network has its own.
        python: interpreter of the second arm's environment.
        say: called with one line before each step.

    Raises:
        UnknownName: a subject is neither a backend nor a path.
        UsageError: a backend cannot run its subject, or the artifacts are of different networks.
        ResnextError: what reading or building an artifact raises.
    """
    resolved = [_resolved(subject) for subject in subjects]
    artifacts = [one for one in resolved if isinstance(one, Artifact)]
    if choices.backend is not None and not artifacts:
        raise UsageError("`backend` is the runtime for artifacts", hint="drop it")
    chosen = isinstance(weights, Weights)
    if not isinstance(weights, Weights):
        weights = artifact_weights(artifacts[0], weights) if artifacts else load_weights(weights)
    own = [weights_of(one, weights, chosen=chosen) for one in resolved]
    elsewhere = (False, python is not None)
    planned = [
        _planned(one, choices, elsewhere=away)
        for one, away in zip(resolved, elsewhere, strict=True)
    ]
    store = Artifacts(own[0], [case for case, _ in planned], choices.device, say)
    other = store
    if own[1] is not own[0]:
        other = Artifacts(own[1], [planned[1][0]], choices.device, say)
    first, second = (
        _arm(name, subject, *plan, each)
        for name, subject, plan, each in zip("AB", subjects, planned, (store, other), strict=True)
    )
    return first, replace(second, python=python)


def weights_of(subject: str | Artifact, weights: Weights, *, chosen: bool) -> Weights:
    """``weights``, or those of an artifact that was made from others.

    Raises:
        UsageError: it is of another network, so that the times say nothing of either, or the user
            has ``chosen`` the weights of both.
    """
    if isinstance(subject, str):
        return weights
    manifest = subject.manifest
    if (manifest.weights.sha256, manifest.preprocessing) == (
        weights.sha256,
        weights.preprocessing,
    ):
        return weights
    if chosen:
        raise UsageError(f"{subject.directory} is of other weights or preprocessing than requested")
    if manifest.foreign or manifest.network != weights.config:
        raise UsageError(
            f"{subject.directory} is of another network than the other arm",
            hint="only the same network can be compared",
        )
    return artifact_weights(subject)


def _resolved(subject: str) -> str | Artifact:
    if subject in LOCAL_RUNTIMES:
        return subject
    path = Path(subject)
    if exists(path) or path.name != subject:
        return read_artifact(path)
    raise UnknownName("backend or folder", subject, LOCAL_RUNTIMES)


def _planned(
    subject: str | Artifact, choices: Choices, *, elsewhere: bool
) -> tuple[Case, Candidate]:
    """The backend of a subject and its candidate, checked before anything is built.

    Raises:
        UsageError: the backend never runs it, or not on the device.
        MissingRequirement: this environment lacks what the backend needs, and it is not to run
            ``elsewhere``.
    """
    if isinstance(subject, str):
        backend, candidate = subject, Candidate(choices.precision)
        check_precision(backend, choices.precision)
    else:
        backend = choices.backend or natural_runtime(subject)
        candidate = Candidate(subject.manifest.precision, subject)
        if not _builds(backend, subject):
            check_subject(backend, subject)
    check_device(backend, choices.device)
    if not elsewhere:
        fixed = RUNTIMES[backend].device
        device = fixed if choices.device == "auto" else choices.device
        own = candidate.artifact
        runs_own = own is not None and own.manifest.kind in RUNTIMES[backend].formats
        require(backend, device, prebuilt=runs_own)
    return Case(backend, choices.batch, candidate.precision), candidate


def _builds(backend: str, artifact: Artifact) -> bool:
    """Whether ``backend`` runs an engine that is built of ``artifact``."""
    formats = RUNTIMES[backend].formats
    return artifact.manifest.kind == "onnx" and formats[0] in ("trt", "trt-rtx")


def _arm(name: str, subject: str, case: Case, candidate: Candidate, store: Artifacts) -> Arm:
    own = candidate.artifact
    runtime = RUNTIMES[case.backend]
    artifact, graph = own, own if own is not None and own.manifest.kind == "onnx" else None
    if not runtime.live and (own is None or own.manifest.kind not in runtime.formats):
        artifact, graph = store.build(case, candidate)
    for held in (artifact, graph):
        if held is not None:
            store.hold(held)
    weights = store.network
    assert isinstance(weights, Weights)
    return Arm(name, subject, case.backend, candidate.precision, artifact, graph, weights)
