"""The front door: subjects to a run. The command is a shell over `benchmark`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from resnext.artifact.files import Artifact
from resnext.errors import UnknownName, UsageError
from resnext.precision import PRECISIONS, QUANTIZED, Precision
from resnext.runtimes.registry import RUNTIMES, SessionOptions, natural_runtime
from resnext.verify.labelled import Labelled
from resnext.weights.spec import Weights, load_weights

from .cases import (
    ALL,
    Merge,
    Variant,
    cells_of,
    chosen_cells,
    given_variants,
    made_variants,
    runtimes_here,
)
from .deadline import Deadline
from .plan import Plan
from .result import Run
from .run import run_benchmark

#: A runtime's name, an artifact, or the path of one.
Subject: TypeAlias = str | Path | Artifact


def benchmark(
    subjects: Subject | Sequence[Subject],
    *,
    batch: int | Sequence[int] = 1,
    weights: Weights | str | None = None,
    precision: Precision | Sequence[Precision] | None = None,
    runtimes: Sequence[str] | None = None,
    merge_groups: Merge | Sequence[Merge] = None,
    calibration: str | None = None,
    calibration_images: int | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int | None = None,
    memory_format: Literal["auto", "nchw", "channels-last"] = "auto",
    cuda_graph: bool = True,
    duration: float = 1.0,
    rounds: int = 5,
    warmup: float = 0.2,
    samples: int = 11,
    seed: int = 0,
    accuracy: str | None = None,
    accuracy_images: int | None = None,
    max_seconds: float | Deadline | None = None,
    progress: Callable[[str], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> Run:
    """Measure latency, throughput, memory and parity of several runtimes and artifacts.

    They take turns in short rounds, so that drift of the machine affects all alike. The output of
    the timed runs is compared with float64 PyTorch.

    Args:
        subjects: what to measure. The name of a runtime runs the weights: live, or as an artifact
            from the cache, which is made if it is not there; ``"all"`` is every runtime that this
            machine has. An artifact, or the path of one, runs on its natural runtime. Speedups are
            relative to the first.
        batch: batch sizes.
        weights: the network, loaded or by its SPEC (`load_weights`); None means what the artifacts
            were made from, or without artifacts the seeded ResNeXt-50 32x4d.
        precision: of what is made of the weights; several are compared. Artifacts must have it.
        runtimes: run every artifact on these instead of its natural one.
        merge_groups: minimum channels of a group in what is made of the weights, or ``auto``; None
            leaves groups alone. Several are compared.
        calibration: images that int8 and fp8 take their ranges from; None means those that shipped
            weights were trained on.
        calibration_images: how many; None means 128.
        device: for runtimes that run on either.
        threads: CPU threads; None means one for each physical core.
        memory_format: of PyTorch; ``auto`` times both and keeps the faster.
        cuda_graph: replay a CUDA graph.
        duration: timed seconds of each row.
        rounds: visits to each row that the time is spread over.
        warmup: untimed seconds before, for each row.
        samples: minimum number of timed runs of a row (11: median, 64: p90, 662: p99).
        seed: of the test images and the order of visits.
        accuracy: labelled test images that every row runs as well: ``digits``, ``fashion-mnist`` or
            a folder in ImageNet's layout.
        accuracy_images: seeded sample of so many of them; None means all.
        max_seconds: open no further row after half of this time, and begin no visit after all of
            it; what was measured is compared and reported.
        progress: called with one line at every step.
        note: called with one line for each combination that is left out.

    Returns:
        The run; print its `Run.table`. A subject that fails has a row with the reason, and the
        others go on.

    Raises:
        UsageError: nothing to measure, values out of range, or arguments that do not go together.
        UnknownName: a subject or runtime that is not known, and no path either.
        BadArtifact: an artifact cannot be read.
        BadWeights: the weights cannot be found, or are not what the artifacts were made from.
        BadInput: labelled images that are not this network's.
        MissingRequirement: nothing at all can run here, or the labelled images are not installed.
    """
    wanted = tuple(map(_resolved, _several(subjects)))
    artifacts = [subject for subject in wanted if not isinstance(subject, str)]
    names = [subject for subject in wanted if isinstance(subject, str)]
    precisions: Sequence[Precision] | None = None if precision is None else _several(precision)
    merges: Sequence[Merge] = _several(merge_groups)
    batches: Sequence[int] = tuple(dict.fromkeys(_several(batch)))
    _check_arguments(
        artifacts, names, precisions, merges, batches, runtimes, calibration or calibration_images
    )
    if accuracy_images is not None and accuracy is None:
        raise UsageError(
            "`accuracy_images` says how many of the images of `accuracy`", hint="give that too"
        )
    left_out: list[str] = []
    if not artifacts:
        known = weights if isinstance(weights, Weights) else load_weights(weights)
        variants = made_variants(precisions or ("fp32",), calibration, calibration_images, merges)
        here = runtimes_here(names, device, variants)
        cells, left_out = chosen_cells(here, batches, variants)
    else:
        known, variants = given_variants(artifacts, weights, precisions, named=bool(names))
        if runtimes is not None:
            here = runtimes_here(runtimes, device, variants)
            cells, left_out = chosen_cells(here, batches, variants)
        else:
            named = iter(variants.items())
            live = {"": Variant((precisions or ("fp32",))[0])} if names else {}
            cases: list[tuple[str, str]] = []
            for subject in wanted:
                if isinstance(subject, str):
                    cases += [(name, "") for name in runtimes_here([subject], device, live)]
                else:
                    name, variant = next(named)
                    assert variant.artifact is not None  # as `given_variants` makes them
                    cases.append((natural_runtime(variant.artifact), name))
            cells, variants = cells_of(cases, batches), live | variants
    for line in left_out:
        note(line)
    return run_benchmark(
        known,
        Plan(cells, duration, rounds, warmup, samples, seed),
        options=SessionOptions(device, threads, memory_format, cuda_graph),
        variants=variants,
        accuracy=None if accuracy is None else Labelled(accuracy, known, accuracy_images),
        deadline=max_seconds if isinstance(max_seconds, Deadline) else Deadline(max_seconds),
        say=progress,
    )


def _several(values: Any) -> tuple[Any, ...]:
    """One value or several as a tuple; a string is one value."""
    if isinstance(values, Sequence) and not isinstance(values, str):
        return tuple(values)
    return (values,)


def _resolved(subject: Subject) -> str | Path | Artifact:
    """``subject``, a path as such.

    Raises:
        UnknownName: neither a runtime's name nor a path.
    """
    if not isinstance(subject, str) or subject == ALL or subject in RUNTIMES:
        return subject
    path = Path(subject)
    if path.exists() or path.name != subject:
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
    """Check what goes together.

    Raises:
        UsageError: something does not.
        UnknownName: a runtime or precision that does not exist.
    """
    for kind, given, known in (
        ("precision", precisions, PRECISIONS),
        ("runtime", runtimes, (ALL, *RUNTIMES)),
    ):
        for name in given or ():
            if name not in known:
                raise UnknownName(kind, name, known)
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
