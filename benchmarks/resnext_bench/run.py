"""One benchmark from weights to a run: open, measure, judge."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext

from resnext.artifact.files import Artifact
from resnext.artifact.manifest import WeightsRecord
from resnext.images.synthetic import seeded_pixels
from resnext.machine.environment import record_environment, record_packages
from resnext.machine.nvml import open_nvml
from resnext.machine.threads import ThreadBudget, thread_budget
from resnext.network.config import variant_name
from resnext.runtimes.registry import SessionOptions
from resnext.verify.file_reference import FileReference
from resnext.verify.labeled import Labeled
from resnext.verify.parity import images_to_compare
from resnext.verify.reference import Comparison, Reference
from resnext.verify.subject import Network

from .artifacts import Artifacts
from .cases import Candidate
from .deadline import Deadline
from .limits.needed import Limits, needed_limits
from .measure import measure, with_cache
from .opening import Opening, open_case
from .overhead import harness_ns
from .plan import Case, Plan
from .record import Row
from .result import Run
from .rows import Judge, control_of, with_speedups
from .scenarios.energy import Energy
from .scenarios.scenario import Passes, Scenario, Stage, go_through

#: Reason for a number of threads that the user gave.
REQUESTED = "requested"


def run_benchmark(
    network: Network,
    plan: Plan,
    *,
    options: SessionOptions | None = None,
    candidates: Mapping[str, Candidate] | None = None,
    accuracy: Labeled | None = None,
    scenarios: Sequence[Scenario] = (),
    deadline: Deadline | None = None,
    say: Callable[[str], None] = lambda _: None,
    save: Callable[[Run], None] = lambda _: None,
) -> Run:
    """Measure every case of ``plan``.

    Args:
        network: weights, or an ONNX file from elsewhere; the reference of every row's parity.
        plan: what and how long.
        options: device, threads, memory format, CUDA graphs.
        candidates: artifacts and precisions by their names in ``plan``; None means fp32, built from
            the weights.
        accuracy: labeled images for every row to run as well, or None.
        scenarios: what every measured row goes through after the timed rounds.
        deadline: when to stop opening and measuring; None for no limit. Rows that were measured are
            still compared after it, without their labeled images. While measuring and comparing,
            its signals end the time as well.
        say: called with one line at every step.
        save: called with the rows so far whenever one has been judged, so that a run which is
            killed leaves them.

    Returns:
        The run. A backend that fails has a row with the reason; the others go on.
    """
    deadline = deadline or Deadline()
    options = options or SessionOptions()
    budget = thread_budget()
    if options.threads is not None:
        budget = ThreadBudget(options.threads, REQUESTED)
    several = any(case.threads is not None for case in plan.cases)
    candidates = candidates or {"": Candidate()}
    created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    artifacts = Artifacts(network, plan.cases, options.device, say)
    reference = _reference(network, max(case.batch for case in plan.cases), plan.seed)
    with ExitStack() as stack:
        nvml = stack.enter_context(open_nvml())
        energy = Energy(lambda: nullcontext(nvml))
        environment = record_environment(nvml)
        rows_of = [(case.backend, case.threads or budget.count) for case in plan.cases]
        timed_s = plan.duration_s * len(plan.cases)
        limits = Limits()
        if reference.config is not None:  # without it, nothing is compared with them
            limits = needed_limits(rows_of, timed_s, options.device, environment, deadline, say)
        openings = {
            case: Opening(error=deadline.not_measured())
            if deadline.opening_over()
            else open_case(
                case, candidates[case.candidate], artifacts, reference, options, stack, say
            )
            for case in plan.cases
        }
        subjects = {
            case: with_cache(opening.subject, plan.cache)
            for case, opening in openings.items()
            if opening.subject is not None
        }
        stack.enter_context(deadline.heeding_signals())
        overhead_ns = harness_ns()
        measured = measure(subjects, plan, say, deadline, nvml.state)
        passes: dict[Case, Passes] = {}
        for case, subject in subjects.items():
            raw, artifact = measured.samples[case], openings[case].artifact
            if raw.error is None:
                stage = Stage(
                    case,
                    subject,
                    raw,
                    network,
                    artifact,
                    plan.seed,
                    deadline,
                    say,
                    openings[case].options or options,
                )
                passes[case] = go_through((energy, *scenarios), stage)
        # Now that the packages are imported.
        environment = environment.model_copy(update={"packages": record_packages()})
        control = control_of(measured, plan.precision or 0.0)

        def run_of(rows: Sequence[Row], *, complete: bool) -> Run:
            return Run(
                created=created,
                model=None if reference.config is None else variant_name(reference.config),
                weights=network.manifest.weights
                if isinstance(network, Artifact)
                else WeightsRecord.model_validate(network.provenance),
                unknown=reference.unknown,
                precision=", ".join(
                    dict.fromkeys(candidate.precision for candidate in candidates.values())
                ),
                duration_s=plan.duration_s,
                rounds=plan.rounds,
                seed=plan.seed,
                threads=None if several else budget.count,
                thread_reason=REQUESTED if several else budget.reason,
                precision_target=plan.precision,
                complete=complete,
                ended=measured.ended,
                control=control,
                reused=tuple(artifacts.reused),
                environment=environment,
                harness_ns=overhead_ns,
                rows=with_speedups(rows, control),
            )

        judge = Judge(reference, accuracy, environment, deadline, plan, budget.count, limits)
        rows: list[Row] = []
        for case in plan.cases:
            say(f"comparing the outputs of {case}")
            candidate, samples = candidates[case.candidate], measured.samples.get(case)
            rows.append(judge.row(case, candidate, openings[case], samples, passes.get(case)))
            if len(rows) < len(plan.cases):
                save(run_of(rows, complete=False))
        return run_of(rows, complete=True)


def _reference(network: Network, batch: int, seed: int) -> Comparison:
    """Seeded images with the logits of ``network``, enough of them for ``batch``."""
    if isinstance(network, Artifact):
        classes = network.manifest.outputs[0].shape[1] or 1
        return FileReference.seeded(network, images_to_compare(batch, classes), seed)
    count = images_to_compare(batch, network.config.num_classes)
    return Reference(network, seeded_pixels(network.config, count, seed))
