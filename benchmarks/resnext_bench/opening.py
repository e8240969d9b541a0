"""From a cell to an open session with its input bound, and what that took."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from resnext.artifact.files import Artifact
from resnext.errors import BadInput, ResnextError
from resnext.runtimes.availability import require
from resnext.runtimes.registry import RUNTIMES, SessionOptions, load_door, open_session
from resnext.timing.clock import now_ns
from resnext.verify.reference import Reference

from .artifacts import ArtifactSource
from .measure import Subject, as_failure
from .memory import Peak, peak_memory
from .plan import Cell

if TYPE_CHECKING:
    from resnext.weights.spec import Weights


@dataclass
class Opened:
    """What opening a cell gave.

    Attributes:
        subject: what to measure; None if the cell could not be opened.
        error: why not.
        artifact: what runs; None for a live model.
        peak: memory that opening and the first run added.
        setup_s: seconds to open, bind and first run.
        bind_s: seconds of the bind and first run alone.
    """

    subject: Subject | None = None
    error: ResnextError | None = None
    artifact: Artifact | None = None
    peak: Peak = field(default_factory=Peak)
    setup_s: float | None = None
    bind_s: float | None = None


def open_cell(
    cell: Cell,
    source: ArtifactSource,
    images: Reference,
    options: SessionOptions,
    stack: ExitStack,
    say: Callable[[str], None],
) -> Opened:
    """Find or make what ``cell`` runs, open it and bind its input; an error is part of the result.

    Args:
        cell: backend and batch size.
        source: the artifacts of its variant.
        images: at least as many as the batch.
        options: device, threads, memory format, CUDA graphs.
        stack: closes the session.
        say: called with one line before each step.
    """
    opened = Opened()
    try:
        subject: Weights | Artifact = images.weights
        kind = RUNTIMES[cell.backend].formats[0]
        # Before anything is exported for a backend that cannot run.
        require(cell.backend, options.device, prebuilt=source.named(cell.backend) is not None)
        load_door(cell.backend)  # not to count importing as memory
        if kind != "weights":
            subject = opened.artifact = source.get(cell)
            manifest = opened.artifact.manifest
            if not manifest.takes(cell.batch):
                raise BadInput(
                    f"{opened.artifact.path} takes batch {manifest.batches()}, not {cell.batch}"
                )
        say(f"opening {cell}")
        cuda = options.device != "cpu" and RUNTIMES[cell.backend].device != "cpu"
        with peak_memory(cuda=cuda) as opened.peak:
            before = now_ns()
            session = stack.enter_context(
                open_session(subject, cell.backend, options=_for(cell, source, options))
            )
            pool = images.inputs(None if opened.artifact is None else opened.artifact.manifest)
            spec = session.inputs[0]
            inputs = {spec.name: np.ascontiguousarray(spec.cast(pool[: cell.batch]))}
            started = now_ns()
            bound = session.bind(inputs)
            opened.bind_s = (now_ns() - started) / 1e9
            opened.setup_s = (now_ns() - before) / 1e9
        opened.subject = Subject(session, inputs, bound)
    except Exception as exc:  # whatever a runtime raises ends its own cell alone
        opened.error = as_failure(exc)
    return opened


def _for(cell: Cell, source: ArtifactSource, options: SessionOptions) -> SessionOptions:
    """``options`` with the cell's precision, and a device that its backend supports."""
    options = replace(
        options, precision=source.variant.precision, merge_groups=source.variant.merge
    )
    fixed = RUNTIMES[cell.backend].device
    return (
        options if fixed == "auto" or options.device != "auto" else replace(options, device=fixed)
    )
