"""The pick in fresh processes: planted workers, and a real one with several requests in flight."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fakes.here import HERE
from fakes.simulated import QUIET
from fakes.workshop import parity
from resnext.artifact.files import Artifact, read_artifact
from resnext.errors import GateFailed
from resnext.images.synthetic import seeded_pixels
from resnext.verify.parity import Parity
from resnext.verify.reference import Reference
from resnext.weights.spec import Weights, load_weights
from resnext_bench.ab import worker as worker_module
from resnext_bench.ab.protocol import Job, Opened, Visit
from resnext_bench.ab.record import Round
from resnext_bench.ab.rounds import measure_rounds
from resnext_bench.deadline import Deadline
from resnext_bench.tune import confirm
from resnext_bench.tune.confirm import FreshProcesses, WrongOutput, confirmation
from resnext_bench.tune.request import checked_request
from resnext_bench.tune.space import Point

PICK = Point("ort-cpu", batch=8, streams=2)
BASE = Point("torch", batch=8)
MS = 1_000_000
EARLIER = Path(__file__).parents[1] / "core" / "data" / "earlier_artifacts"


@pytest.fixture(scope="module")
def digits() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return read_artifact(EARLIER / "onnx-fp32")


@dataclass
class Workers:
    """In the place of `Worker`: each takes a planted time.

    Attributes:
        ms: of a run, by the name of the candidate.
        jobs: what they opened.
    """

    ms: dict[str, float]
    jobs: dict[str, Job] = field(default_factory=dict)

    def __call__(self, name: str) -> FakeWorker:
        return FakeWorker(self, name)


class FakeWorker:
    def __init__(self, workers: Workers, name: str) -> None:
        self.workers, self.name = workers, name

    def __enter__(self) -> FakeWorker:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def open(self, job: Job) -> Opened:
        self.workers.jobs[self.name] = job
        return Opened(estimate_ns=MS, device="cpu", delivered="", notes={}, environment=HERE)

    def visit(self, iterations: int, _expected_s: float) -> Visit:
        took = round(self.workers.ms[self.name] * MS)
        return Visit(times_ns=(took,) * iterations, load=QUIET)

    def logits(self, _expected_s: float) -> NDArray[Any]:
        return np.zeros((8, 10), np.float32)


def confirmed(
    digits: Weights,
    artifact: Artifact,
    monkeypatch: pytest.MonkeyPatch,
    *,
    goal: str = "throughput",
    judged: Parity | None = None,
    most_s: float = 60.0,
) -> tuple[Any, Workers]:
    workers = Workers({PICK.name: 4.0, BASE.name: 3.0})
    monkeypatch.setattr(confirm, "Worker", workers)
    outcome = judged or parity()
    request = checked_request(digits, goal)
    both = FreshProcesses(request, lambda *_: outcome, 8, Deadline(), lambda _: None)
    return both(PICK, BASE, (artifact, None), most_s=most_s), workers


def test_times_are_compared_by_the_goal(
    digits: Weights, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, workers = confirmed(digits, artifact, monkeypatch)
    assert found.ratio[0] == pytest.approx(3.0 / 8 * 16 / 4.0)  # two requests in flight
    assert found.verdict == "SLOWER"
    slower, _ = confirmed(digits, artifact, monkeypatch, goal="latency")
    assert slower.ratio[0] == pytest.approx(3.0 / 4.0)
    assert slower.verdict == "FASTER"
    job, base = workers.jobs[PICK.name], workers.jobs[BASE.name]
    assert (job.streams, job.batch, job.artifact_sha256) == (
        2,
        8,
        artifact.manifest.file_sha256,
    )
    assert (base.streams, base.memory_format, base.artifact) == (1, "channels-last", None)


@pytest.mark.parametrize(("device", "threads"), [("cpu", 3), ("cuda:0", 1)])
def test_other_work_is_judged_by_the_threads_that_are_in_use(
    digits: Weights,
    artifact: Artifact,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    threads: int,
) -> None:
    schedules = []

    def measured(*arguments: Any, **options: Any) -> Any:
        schedules.append(arguments[2])
        return measure_rounds(*arguments, **options)

    def opened(*_: object) -> Opened:
        return Opened(estimate_ns=MS, device=device, delivered="", notes={}, environment=HERE)

    monkeypatch.setattr(FakeWorker, "open", opened)
    monkeypatch.setattr(confirm, "measure_rounds", measured)
    monkeypatch.setattr(confirm, "threads_of", lambda _: 3)
    confirmed(digits, artifact, monkeypatch)
    assert [each.threads for each in schedules] == [threads]


@pytest.mark.parametrize(("count", "verdict"), [(5, "CANNOT TELL"), (6, "SLOWER"), (9, "SLOWER")])
def test_a_verdict_never_contradicts_its_interval(
    digits: Weights, count: int, verdict: str
) -> None:
    took = [
        ((MS,), (round(each * MS),)) for each in (13.0, 7.5, 20.0, 14.0, 90.0, 12.0, 13, 14, 15)
    ]
    rounds = [
        Round(pair=0, first="A", times_ns=times, loads=(QUIET, QUIET)) for times in took[:count]
    ]
    found = confirmation(PICK, BASE, rounds, checked_request(digits, "latency"))
    assert found.verdict == verdict
    assert (found.ratio is None) == (count < 6)


def test_a_wrong_output_and_no_time_are_no_confirmation(
    digits: Weights, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WrongOutput, match="wrong output in a fresh process"):
        confirmed(digits, artifact, monkeypatch, judged=parity(passed=False))
    with pytest.raises(GateFailed, match="out of time"):
        confirmed(digits, artifact, monkeypatch, most_s=0.0)


@pytest.mark.parametrize(
    ("budget_s", "starts", "opened"),
    [
        (100.0, 2, [PICK.name, BASE.name] * 2),
        (25.0, 1, [PICK.name, BASE.name]),  # 13 s are gone, and a start takes 12
        (5.0, 0, [PICK.name]),
    ],
)
def test_no_process_is_started_that_would_not_be_ready_in_time(
    digits: Weights,
    artifact: Artifact,
    monkeypatch: pytest.MonkeyPatch,
    budget_s: float,
    starts: int,
    opened: list[str],
) -> None:
    now = [0.0]
    names: list[str] = []
    real = FakeWorker.open

    def slow(self: FakeWorker, job: Job) -> Opened:
        names.append(self.name)
        now[0] += 6.0
        return real(self, job)

    monkeypatch.setattr(FakeWorker, "open", slow)
    monkeypatch.setattr(confirm, "Worker", Workers({PICK.name: 4.0, BASE.name: 3.0}))
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    request, deadline = checked_request(digits, "latency"), Deadline(budget_s)
    both = FreshProcesses(request, lambda *_: parity(), 8, deadline, lambda _: None)
    done = 0
    for _ in range(2):
        with suppress(GateFailed):
            both(PICK, BASE, (artifact, None), most_s=deadline.left_s())
            done += 1
            now[0] += 1.0
    assert (done, names) == (starts, opened)


def test_a_worker_keeps_several_requests_in_flight(artifact: Artifact) -> None:
    spec = str(EARLIER / "tiny.safetensors")
    weights = load_weights(spec, artifact.manifest.network)
    job = Job(
        backend="ort-cpu",
        artifact=str(artifact.directory),
        artifact_sha256=artifact.manifest.file_sha256,
        config=weights.config,
        weights=spec,
        weights_sha256=weights.sha256,
        preprocessing=weights.preprocessing,
        precision="fp32",
        batch=2,
        images=7,
        seed=0,
        device="cpu",
        threads=2,
        warmup_s=0.0,
        streams=2,
    )
    with ExitStack() as stack:
        arm = worker_module._Arm(job, stack)
        assert arm.opened().estimate_ns > 0
        # Long enough that the second begins before the first has ended.
        assert len(arm.visit(2000).times_ns) > 2000  # of both streams
        logits = arm.logits().array()
    reference = Reference(weights, seeded_pixels(weights.config, 7, 0))
    assert np.abs(logits - reference.logits()).max() < 1e-3
