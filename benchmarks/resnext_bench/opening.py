"""From a case to an open session with its input bound, and the cost of getting there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np

from resnext.artifact.files import Artifact
from resnext.errors import BadInput, ResnextError
from resnext.runtimes.availability import require
from resnext.runtimes.registry import (
    Device,
    SessionOptions,
    check_precision,
    open_session,
    runtime_named,
)
from resnext.runtimes.session import Session
from resnext.timing.clock import now_ns
from resnext.timing.streams import time_streams
from resnext.verify.reference import Comparison

from .artifacts import Artifacts
from .cases import Candidate
from .measure import Call, Subject, as_failure
from .memory import Peak, peak_memory
from .plan import Case


@dataclass
class Opening:
    """Outcome of opening a case.

    Attributes:
        subject: the session and its input; None if the case could not be opened.
        error: why it could not.
        artifact: the artifact that runs; None for a live network.
        options: what it was opened with; None if it could not be.
        graph: the ONNX artifact that it is or was built from; None if there is none.
        peak: memory that opening and the first runs added, of bound inputs and of each stream;
            unknown of a server.
        setup_s: seconds to open, bind and first run; None for a server, which is open already.
        bind_s: seconds of the bind and first run alone.
        run_s: seconds of a run after that, of all streams at once.
    """

    subject: Subject | None = None
    error: ResnextError | None = None
    artifact: Artifact | None = None
    options: SessionOptions | None = None
    graph: Artifact | None = None
    peak: Peak = field(default_factory=Peak)
    setup_s: float | None = None
    bind_s: float | None = None
    run_s: float | None = None


def open_case(
    case: Case,
    candidate: Candidate,
    artifacts: Artifacts,
    reference: Comparison,
    options: SessionOptions,
    stack: ExitStack,
    say: Callable[[str], None],
) -> Opening:
    """Find or build the artifact of ``case``, open it and bind its input. Errors go into the
    result.

    Args:
        case: backend, batch size, threads and streams.
        candidate: precision, and the user's artifact if there is one.
        artifacts: builds any other.
        reference: at least as many images as the batch.
        options: device, threads, memory format, CUDA graphs.
        stack: closes the session.
        say: called with one line before each step.
    """
    opening = Opening()
    fixed = runtime_named(case.backend).device
    device = fixed if options.device == "auto" else options.device
    try:
        artifact, opening.graph = _artifacts_of(case, candidate, artifacts, options.device)
        opening.artifact = artifact
        for held in (artifact, opening.graph):
            if held is not None:
                artifacts.hold(held)
        manifest = None if artifact is None else artifact.manifest
        if artifact is not None and not artifact.manifest.takes(case.batch):
            raise BadInput(
                f"{artifact.path} takes batch {artifact.manifest.batches()}, not {case.batch}"
            )
        say(f"opening {case}")
        with peak_memory(cuda=device != "cpu") as opening.peak:
            before = now_ns()
            own = replace(
                options,
                device=device,
                precision=candidate.precision,
                merge_groups=candidate.merge,
                threads=case.threads or options.threads,
                streams=case.streams,
            )
            session = stack.enter_context(
                open_session(artifact or artifacts.network, case.backend, options=own)
            )
            spec = session.inputs[0]
            images = reference.inputs(manifest)[: case.batch]
            inputs = {spec.name: np.ascontiguousarray(spec.cast(images))}
            started = now_ns()
            bound = session.bind(inputs)
            opening.bind_s = (now_ns() - started) / 1e9
            opening.setup_s = (now_ns() - before) / 1e9
            # Requests in flight need memory that bound inputs do not.
            calls = [Call(stream, inputs) for stream in session.streams()]
            opening.run_s = max(time_streams(calls, 1)) / 1e9
        opening.options = own
        opening.subject = Subject(session, inputs, bound, _threads(session, own))
        if session.served:  # what was measured is the client's
            opening.peak, opening.setup_s, opening.bind_s = Peak(), None, None
    except Exception as exc:  # whatever a runtime raises ends only its own case
        opening.error = as_failure(exc)
    return opening


def _threads(session: Session, options: SessionOptions) -> int | None:
    """Processors that the runs of ``session`` need here; None if nobody can tell: a server on this
    machine takes what it likes.
    """
    needed = {"": options.thread_count, "here": None, "elsewhere": options.streams}
    return needed[session.served]


def _artifacts_of(
    case: Case, candidate: Candidate, artifacts: Artifacts, device: Device
) -> tuple[Artifact | None, Artifact | None]:
    """The artifact that ``case`` runs, or None for the live network; and the ONNX artifact that it
    is or was built from, if there is one.
    """
    runtime, own = runtime_named(case.backend), candidate.artifact
    graph = own if own is not None and own.manifest.kind == "onnx" else None
    runs_own = own is not None and (graph is None or runtime.formats[0] == "onnx")
    # Before anything is built. Imports the runtime, which then does not count as a case's memory.
    require(case.backend, device, prebuilt=runs_own)
    if runtime.live:
        return None, None
    if runs_own:
        return own, graph
    check_precision(case.backend, candidate.precision)
    return artifacts.build(case, candidate)
