"""The candidates of a benchmark, and the cases to measure: each on backends, at batch sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from resnext.artifact.files import Artifact
from resnext.artifact.foreign import open_artifact
from resnext.errors import BadWeights, UsageError
from resnext.precision import QUANTIZED, Precision
from resnext.runtimes.availability import available_runtimes, require
from resnext.runtimes.registry import SessionOptions, check_streams, runtime_named
from resnext.verify.check import artifact_weights, recorded_original
from resnext.verify.held.artifact import check_graph
from resnext.verify.subject import Network

from .plan import Case

if TYPE_CHECKING:
    from resnext.weights.spec import Weights

#: Minimum width of groups in channels; ``auto`` is the fastest in a trial, None leaves the groups
#: alone.
Merge: TypeAlias = int | Literal["auto"] | None

#: How calibration handles outliers, as an export takes it.
Method: TypeAlias = Literal["minmax", "percentile"]

#: Every runtime that this machine has, among names of runtimes.
ALL = "all"


@dataclass(frozen=True)
class Candidate:
    """An artifact or live network under test.

    Attributes:
        precision: of weights and activations.
        artifact: the user's artifact; None means one from the cache.
        calibration: calibration images for a quantized artifact from the cache, and their count;
            None for either means the default.
        merge: minimum input channels of a group in an artifact from the cache or a live network,
            or ``auto``; None leaves groups alone.
        method: how calibration handles outliers in an artifact from the cache; None means the
            exporter's default.
    """

    precision: Precision = "fp32"
    artifact: Artifact | None = None
    calibration: tuple[str | None, int | None] = (None, None)
    merge: Merge = None
    method: Method | None = None


def candidates_of_weights(
    precisions: Sequence[Precision],
    calibration: str | None,
    images: int | None,
    merges: Sequence[Merge] = (None,),
) -> dict[str, Candidate]:
    """A candidate for each precision and width of groups, with artifacts from the cache; a single
    plain one has no name.

    Args:
        precisions: of weights and activations.
        calibration: images for int8 and fp8, or None for the default.
        images: their count.
        merges: minimum widths of groups; None leaves them alone.
    """
    candidates = {}
    for precision in precisions:
        for merge in merges:
            parts: list[str] = [precision] if len(precisions) > 1 else []
            parts += [f"merged {merge}"] if merge is not None else []
            quantized = precision in QUANTIZED
            candidates[" ".join(parts)] = Candidate(
                precision,
                calibration=(calibration, images) if quantized else (None, None),
                merge=merge,
            )
    return candidates


def merge_problem(backend: str, merge: Merge) -> str | None:
    """Why ``backend`` does not support ``merge``; None if it does.

    ``auto`` is timed on the runtime itself: by the live model, or for an ONNX file, on a CPU.
    """
    if merge is not None and backend == "torch-fused":
        return "torch-fused chooses the width of each layer's groups itself"
    if merge is None or runtime_named(backend).live:
        return None
    if runtime_named(backend).formats[0] == "pt2":
        return "pt2 packages keep the groups as they are"
    if merge == "auto" and backend not in ("ort-cpu", "openvino"):
        return (
            f"auto times the live model, ort-cpu and openvino; for {backend} give a number of"
            " channels"
        )
    return None


def foreign_problem(backend: str, candidate: Candidate) -> str | None:
    """Why ``backend`` cannot run an ONNX file from elsewhere; None if it can, or there is none."""
    artifact = candidate.artifact
    if artifact is None or not artifact.manifest.foreign:
        return None
    source = runtime_named(backend).formats[0]
    if runtime_named(backend).live or (source == "pt2" and artifact.manifest.kind != "pt2"):
        return (
            f"{backend} runs the PyTorch network, and of {artifact.path} only the ONNX graph is"
            " known"
        )
    return None


def candidates_of_artifacts(
    subjects: Sequence[Path | Artifact],
    weights: Weights | str | None,
    precisions: Sequence[Precision] | None,
    *,
    input_size: tuple[int, int] | None = None,
    keep_name: bool = False,
) -> tuple[Network, dict[str, Candidate]]:
    """A candidate for each artifact, named after its folder or file, and the weights of all of
    them; for ONNX files from elsewhere, the file itself.

    Args:
        subjects: artifacts or their paths.
        weights: the weights that they were exported from, loaded or by SPEC; None means those that
            the first one names.
        precisions: requested; None means the artifacts' own.
        input_size: height and width, of ONNX files that leave them open.
        keep_name: name a single artifact's candidate too.

    Raises:
        UsageError: they are of different weights, one is there twice, or one is of another
            precision than requested.
        BadArtifact: one cannot be read.
        BadWeights: the weights cannot be found, or the first was not exported from them.
    """
    artifacts = [
        subject if isinstance(subject, Artifact) else open_artifact(subject, input_size=input_size)
        for subject in subjects
    ]
    first = artifacts[0].manifest
    for artifact in artifacts:
        manifest = artifact.manifest
        if precisions is not None and (manifest.precision,) != tuple(precisions):
            raise UsageError(
                f"{artifact.directory} is {manifest.precision}",
                hint=f"drop `precision` {','.join(precisions)}",
            )
        if (manifest.weights.sha256, manifest.preprocessing) != (
            first.weights.sha256,
            first.preprocessing,
        ):
            raise UsageError(
                f"{artifacts[0].directory} and {artifact.directory} are of different weights or"
                " preprocessing",
                hint="compare them in two runs",
            )
    names = [
        artifact.path.stem if artifact.bare else artifact.directory.resolve().name
        for artifact in artifacts
    ]
    if len(set(names)) < len(names):
        names = [str(a.path if a.bare else a.directory) for a in artifacts]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"the artifact {repeated} is given twice", hint="give it once")
    network: Network
    if first.foreign:
        if weights is not None:
            raise UsageError(
                f"{artifacts[0].path} is an ONNX file from elsewhere, which has its own weights",
                hint="drop `weights`",
            )
        for artifact in artifacts:
            check_graph(artifact)
        network = recorded_original(artifacts[0])
    elif weights is None or isinstance(weights, str):
        network = artifact_weights(artifacts[0], weights)
    elif weights.sha256 != first.weights.sha256:
        raise BadWeights(f"`weights` are not those that {artifacts[0].path} was made from")
    else:
        network = weights
    candidates = [Candidate(artifact.manifest.precision, artifact) for artifact in artifacts]
    return network, dict(
        zip(names if keep_name or len(names) > 1 else [""], candidates, strict=True)
    )


def all_expanded(
    names: Sequence[str],
    device: Literal["auto", "cpu", "cuda"],
    candidates: Mapping[str, Candidate],
) -> tuple[str, ...]:
    """``names``; if `ALL` is among them, every runtime of this machine that runs a candidate.

    Raises:
        MissingRequirement: nothing can run on ``device``.
    """
    if ALL not in names:
        return tuple(names)
    available = available_runtimes(device)
    if not available:
        require("torch", device)  # its obstacle is everybody's
    return tuple(
        name
        for name in available
        if any(
            candidate.precision in runtime_named(name).precisions
            and merge_problem(name, candidate.merge) is None
            and foreign_problem(name, candidate) is None
            for candidate in candidates.values()
        )
    )


@dataclass(frozen=True)
class Axes:
    """What each candidate on a backend is measured at: all combinations.

    Attributes:
        batches: batch sizes.
        threads: numbers of CPU threads; None alone means those of ``options``.
        streams: numbers of requests in flight.
        options: device, and threads if there is one number.
    """

    batches: Sequence[int]
    threads: Sequence[int | None] = (None,)
    streams: Sequence[int] = (1,)
    options: SessionOptions = field(default_factory=SessionOptions)


def cases_at(pairs: Sequence[tuple[str, str]], axes: Axes) -> tuple[tuple[Case, ...], list[str]]:
    """Each pair of a backend and the name of a candidate at each combination of ``axes``, and one
    line for each combination that is skipped because the backend cannot have as many requests in
    flight.

    Raises:
        UsageError: nothing is left.
    """
    refused: dict[str, UsageError] = {}
    cases = []
    for batch, threads, streams in product(axes.batches, axes.threads, axes.streams):
        options = replace(axes.options, threads=threads or axes.options.threads, streams=streams)
        for backend, name in pairs:
            try:
                check_streams(backend, options)
            except UsageError as exc:
                refused.setdefault(f"{exc.message}: {streams} streams left out", exc)
            else:
                cases.append(Case(backend, batch, name, threads, streams))
    if not cases and refused:
        raise next(iter(refused.values()))
    return tuple(cases), list(refused)


def supported_cases(
    backends: Sequence[str], axes: Axes, candidates: Mapping[str, Candidate]
) -> tuple[tuple[Case, ...], list[str]]:
    """The rows to measure; with several candidates, also one line for each combination that is
    skipped because it cannot run.

    A live model has no artifact, and a package is compiled from the weights: these are measured
    once for each precision and width of groups, in the first candidate of it.

    Raises:
        UsageError: the groups of the only candidate cannot be merged as requested, a backend runs
            weights and a candidate is an ONNX file from elsewhere, or no backend can have as many
            requests in flight.
    """
    pairs, notes, of_weights = [], [], set[tuple[str, Precision, Merge]]()
    for name, candidate in candidates.items():
        for backend in backends:
            runtime, reason = runtime_named(backend), merge_problem(backend, candidate.merge)
            unknown = foreign_problem(backend, candidate)
            if unknown is not None:
                raise UsageError(unknown, hint=f"drop `backend` {backend}")
            if reason is not None and len(candidates) == 1:
                raise UsageError(f"`merge_groups`: {reason}")
            if reason is not None:
                notes.append(f"{reason}: left out for {name}")
            elif len(candidates) > 1 and candidate.precision not in runtime.precisions:
                notes.append(f"{backend} does not run {candidate.precision}: left out for {name}")
            elif (backend, candidate.precision, candidate.merge) not in of_weights:
                if _runs_weights(runtime.formats[0], candidate):
                    of_weights.add((backend, candidate.precision, candidate.merge))
                pairs.append((backend, name))
    cases, more = cases_at(pairs, axes)
    return cases, [*notes, *more]


def _runs_weights(source: str, candidate: Candidate) -> bool:
    """Whether a backend of ``source`` runs the weights, whatever the candidate's artifact."""
    artifact = candidate.artifact
    return source == "weights" or (
        source == "pt2" and (artifact is None or artifact.manifest.kind != "pt2")
    )
