"""The front door: subjects to a run. The command is a shell over `benchmark`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from resnext.artifact.files import Artifact
from resnext.errors import UnknownName, UsageError
from resnext.precision import PRECISIONS, QUANTIZED, Precision
from resnext.readers.files import exists
from resnext.runtimes.registry import RUNTIMES, SessionOptions, known, natural_runtime
from resnext.timing.cold import Cache
from resnext.verify.labeled import Labeled
from resnext.verify.subject import Network
from resnext.weights.spec import Weights, load_weights

from .cases import (
    ALL,
    Axes,
    Candidate,
    Merge,
    all_expanded,
    candidates_of_artifacts,
    candidates_of_weights,
    cases_at,
    supported_cases,
)
from .deadline import Deadline
from .plan import Plan
from .result import Run
from .run import run_benchmark
from .scenarios.scenario import Scenario

#: A runtime's name, an artifact, or the path of one.
Subject: TypeAlias = str | Path | Artifact


def benchmark(
    subjects: Subject | Sequence[Subject],
    *,
    batch: int | Sequence[int] = 1,
    weights: Weights | str | None = None,
    input_size: tuple[int, int] | None = None,
    precision: Precision | Sequence[Precision] | None = None,
    runtimes: Sequence[str] | None = None,
    merge_groups: Merge | Sequence[Merge] = None,
    calibration: str | None = None,
    calibration_images: int | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int | Sequence[int] | None = None,
    streams: int | Sequence[int] = 1,
    memory_format: Literal["auto", "nchw", "channels-last"] = "auto",
    cuda_graph: bool = True,
    duration: float = 1.0,
    rounds: int = 8,
    warmup: float = 0.2,
    samples: int = 11,
    precision_target: float | None = 0.01,
    cache: Cache = "hot",
    seed: int = 0,
    accuracy: str | None = None,
    accuracy_images: int | None = None,
    scenarios: Sequence[Scenario] = (),
    max_seconds: float | Deadline | None = None,
    progress: Callable[[str], None] = lambda _: None,
    save: Callable[[Run], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> Run:
    """Measure latency, throughput, memory and parity of several runtimes and artifacts.

    They take turns in short rounds, so that drift of the machine affects all alike. The output of
    the timed runs is compared with float64 PyTorch.

    Args:
        subjects: runtimes and artifacts. The name of a runtime runs the weights: live, or as an
            artifact from the cache, which is built if it is missing; ``"all"`` is every runtime
            that works on this machine. An artifact, or the path of one, runs on its natural
            runtime; an ONNX file from elsewhere is compared with itself. Speedups are relative to
            the first.
        batch: batch sizes.
        weights: the network, loaded or by its SPEC (`load_weights`); None means the weights of the
            artifacts, or without artifacts the seeded ResNeXt-50 32x4d.
        input_size: height and width, of ONNX files from elsewhere that leave them open.
        precision: for everything built from the weights; several are compared. Artifacts must have
            it.
        runtimes: run every artifact on these instead of its natural one.
        merge_groups: minimum channels of a group in everything built from the weights, or
            ``auto``; None leaves groups alone. Several are compared.
        calibration: calibration images for int8 and fp8; None means the training images of shipped
            weights.
        calibration_images: their count; None means 128.
        device: for runtimes that run on either.
        threads: CPU threads of every runtime; None means the thread budget
            (`resnext.machine.threads`). Several are compared.
        streams: requests in flight at once; they share the threads. Several are compared.
        memory_format: of PyTorch; ``auto`` times both and keeps the faster.
        cuda_graph: replay a CUDA graph.
        duration: minimum timed seconds of each row.
        rounds: minimum number of undisturbed visits to each row; the time is spread over them.
        warmup: untimed seconds of each row before the first round.
        samples: minimum number of timed runs of a row (11: median, 64: p90, 662: p99).
        precision_target: measure until half the width of every median's 95 % interval is at most
            this share of it, but no longer than three times ``rounds``. The first row
            is measured twice; above this noise floor no speedup is given. None measures ``rounds``
            rounds, and each row once.
        cache: ``cold`` empties the caches before each timed run, for a network that is used now and
            then; the duration then includes that.
        seed: for the test images and the order of visits.
        accuracy: labeled test images that every row runs as well: ``digits``, ``fashion-mnist`` or
            a folder in ImageNet's layout.
        accuracy_images: size of a seeded sample of them; None means all.
        scenarios: what every row goes through after the timed rounds and apart from them.
        max_seconds: open no further row after half of this time, and begin no visit after all of
            it; rows measured by then are compared and reported.
        progress: called with one line at every step.
        save: called with the rows so far whenever one has been judged.
        note: called with one line for each combination that is skipped.

    Returns:
        The run; print its `Run.table`. A subject that fails has a row with the reason, and the
        others go on.

    Raises:
        UsageError: nothing to measure, values out of range, or arguments that do not go together.
        UnknownName: a subject that is neither a runtime nor a path, or an unknown runtime.
        BadArtifact: an artifact cannot be read.
        BadWeights: the weights cannot be found, or the artifacts were not exported from them.
        BadInput: the labeled images do not fit this network.
        MissingRequirement: no runtime works on this machine, or the labeled images are not
            installed.
    """
    resolved = tuple(map(_resolved, _several(subjects)))
    artifacts = [subject for subject in resolved if not isinstance(subject, str)]
    names = [subject for subject in resolved if isinstance(subject, str)]
    precisions: Sequence[Precision] | None = None if precision is None else _several(precision)
    merges: Sequence[Merge] = _several(merge_groups)
    batches: Sequence[int] = tuple(dict.fromkeys(_several(batch)))
    counts: Sequence[int | None] = tuple(dict.fromkeys(_several(threads)))
    _check_arguments(
        artifacts, names, precisions, merges, batches, runtimes, calibration or calibration_images
    )
    if accuracy_images is not None and accuracy is None:
        raise UsageError(
            "`accuracy_images` says how many of the images of `accuracy`", hint="give that too"
        )
    one = counts[0] if len(counts) == 1 else None
    options = SessionOptions(device, one, memory_format, cuda_graph)
    axes = Axes(
        batches,
        counts if one is None else (None,),
        tuple(dict.fromkeys(_several(streams))),
        options,
    )
    network: Network
    if not artifacts:
        network = weights if isinstance(weights, Weights) else load_weights(weights)
        candidates = candidates_of_weights(
            precisions or ("fp32",), calibration, calibration_images, merges
        )
        backends = all_expanded(names, device, candidates)
        cases, notes = supported_cases(backends, axes, candidates)
    else:
        network, candidates = candidates_of_artifacts(
            artifacts, weights, precisions, input_size=input_size, keep_name=bool(names)
        )
        if names and isinstance(network, Artifact):
            raise UsageError(
                f"{names[0]} beside an ONNX file from elsewhere would run another network",
                hint="name it in `runtimes`",
            )
        if runtimes is not None:
            backends = all_expanded(runtimes, device, candidates)
            cases, notes = supported_cases(backends, axes, candidates)
        else:
            of_artifacts = iter(candidates.items())
            of_weights = {"": Candidate((precisions or ("fp32",))[0])} if names else {}
            pairs: list[tuple[str, str]] = []
            for subject in resolved:
                if isinstance(subject, str):
                    pairs += [(name, "") for name in all_expanded([subject], device, of_weights)]
                else:
                    name, candidate = next(of_artifacts)
                    assert candidate.artifact is not None  # as `candidates_of_artifacts` makes them
                    pairs.append((natural_runtime(candidate.artifact), name))
            (cases, notes), candidates = cases_at(pairs, axes), of_weights | candidates
    for line in notes:
        note(line)
    labeled = None
    if accuracy is not None and isinstance(network, Artifact):
        raise UsageError(
            f"how pictures become the input of {network.path} is not known, so that its accuracy"
            " cannot be measured",
            hint="drop `accuracy`",
        )
    if accuracy is not None:
        assert isinstance(network, Weights)
        labeled = Labeled(accuracy, network, accuracy_images)
    return run_benchmark(
        network,
        Plan(
            cases,
            duration,
            rounds,
            warmup,
            samples,
            seed,
            precision_target,
            cache,
        ),
        options=options,
        candidates=candidates,
        accuracy=labeled,
        scenarios=scenarios,
        deadline=max_seconds if isinstance(max_seconds, Deadline) else Deadline(max_seconds),
        say=progress,
        save=save,
    )


def _several(values: Any) -> tuple[Any, ...]:
    """One value or several as a tuple; a string is one value."""
    if isinstance(values, Sequence) and not isinstance(values, str):
        return tuple(values)
    return (values,)


def _resolved(subject: Subject) -> str | Path | Artifact:
    """``subject``, with paths as `Path`.

    Raises:
        UnknownName: neither a runtime's name nor a path.
    """
    if not isinstance(subject, str) or subject == ALL or known(subject):
        return subject
    path = Path(subject)
    if exists(path) or path.name != subject:
        return path
    raise UnknownName("runtime", subject, (ALL, *RUNTIMES))


def _check_arguments(
    artifacts: Sequence[Path | Artifact],
    names: Sequence[str],
    precisions: Sequence[Precision] | None,
    merges: Sequence[Merge],
    batches: Sequence[int],
    runtimes: Sequence[str] | None,
    calibration: str | int | None,
) -> None:
    """Check that the arguments go together.

    Raises:
        UsageError: they do not.
        UnknownName: an unknown runtime or precision.
    """
    for kind, names_of_kind, valid in (
        ("precision", precisions, PRECISIONS),
        ("runtime", runtimes, (ALL, *RUNTIMES)),
    ):
        for name in names_of_kind or ():
            if name not in valid and not known(name, valid):
                raise UnknownName(kind, name, valid)
    if min(batches, default=0) < 1:
        raise UsageError(
            f"`batch` must be at least 1, not {', '.join(map(str, batches)) or 'none'}"
        )
    if calibration and (artifacts or not set(QUANTIZED) & set(precisions or ())):
        raise UsageError(
            "`calibration` is for int8 and fp8 artifacts that are made here, from the weights",
            hint="drop it",
        )
    if artifacts and tuple(merges) != (None,):
        raise UsageError(
            "an artifact keeps its groups",
            hint="drop `merge_groups`, or export the artifact with it",
        )
    if runtimes is not None and (names or not artifacts):
        raise UsageError("`runtimes` is for artifacts alone", hint="name them as subjects")
    if names and artifacts and len(precisions or ()) > 1:
        raise UsageError("beside artifacts, weights run in one `precision`", hint="give one")
