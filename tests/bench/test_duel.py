"""`resnext-bench ab`: verdicts over planted times, and real processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

import junit_schema
from exported import export_onnx
from fakes.here import HERE
from resnext.artifact.files import read_artifact
from resnext.errors import UsageError
from resnext.images.preprocessing import default_preprocessing
from resnext.images.synthetic import seeded_pixels
from resnext.machine.load import Load
from resnext.verify.reference import Reference
from resnext.weights.spec import Weights, load_weights
from resnext_bench.ab import duel as duel_module
from resnext_bench.ab.arms import Arm, weights_of
from resnext_bench.ab.process import Worker
from resnext_bench.ab.protocol import Job, Opened, Visit
from resnext_bench.ab.record import Duel
from resnext_bench.ab.rounds import Schedule, measure_rounds, undisturbed
from resnext_bench.cli.bench import main

EARLIER = Path(__file__).parents[1] / "core" / "data" / "earlier_artifacts"
QUIET = Load(wall_s=1.0, processors=2, cores=2, own=1.0, others=0.0, stolen=0.0, waiting=0.0)
BUSY = Load(wall_s=1.0, processors=2, cores=2, own=1.0, others=1.0, stolen=0.0, waiting=0.5)

#: Time of a run of arm B, the base's being 1 ms, by pair of processes and visit.
Plan = Callable[[int, int], float]


class FakeWorkers:
    """Stands for `Worker`: planted times and loads, and the network's true logits.

    Attributes:
        times: time of B's runs.
        load: of a visit, by its number.
        wrong: added to B's logits.
        mixed_up: both arms compute with the weights of A.
        trace: arms in the order of their visits.
    """

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.times: Plan = lambda _pair, _visit: 1.0
        self.load: Callable[[int], Load] = lambda _visit: QUIET
        self.wrong = 0.0
        self.mixed_up = False
        self.trace: list[str] = []
        self.pairs = 0

    def __call__(self, arm: str, python: Path | None) -> FakeWorker:
        del python
        self.pairs += arm == "arm A"
        return FakeWorker(self, arm, self.pairs - 1)


class FakeWorker:
    def __init__(self, workers: FakeWorkers, arm: str, pair: int) -> None:
        self.workers, self.arm, self.pair, self.visits = workers, arm, pair, 0

    def __enter__(self) -> FakeWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.workers.trace.append(f"end of {self.arm}")

    def open(self, job: Job) -> Opened:
        self.job = job
        return Opened(
            estimate_ns=1e6, device="cpu", delivered="17 float32", notes={}, environment=HERE
        )

    def visit(self, iterations: int, expected_s: float) -> Visit:
        assert expected_s == pytest.approx(iterations * 1e-3)
        self.workers.trace.append(self.arm)
        planted = self.workers.times(self.pair, self.visits) if self.arm == "arm B" else 1.0
        load = self.workers.load(len(self.workers.trace))
        self.visits += 1
        return Visit(times_ns=(round(planted * 1e6),) * iterations, load=load)

    def logits(self, _expected_s: float) -> NDArray[Any]:
        pixels = seeded_pixels(self.job.config, self.job.images, self.job.seed)
        weights = self.workers.weights
        if self.job.weights_sha256 != weights.sha256 and not self.workers.mixed_up:
            weights = load_weights(self.job.weights, self.job.config)
        logits = Reference(weights, pixels).logits("float32")
        return logits + np.float32(self.workers.wrong if self.arm == "arm B" else 0)


@pytest.fixture(scope="module")
def digits() -> Weights:
    return load_weights("digits")


@pytest.fixture
def workers(digits: Weights, monkeypatch: pytest.MonkeyPatch) -> FakeWorkers:
    fakes = FakeWorkers(digits)
    monkeypatch.setattr(duel_module, "Worker", fakes)
    return fakes


def ab(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["ab", *arguments, "--weights", "digits", "--device", "cpu"])


def noisy(center: float) -> Plan:
    cycle = (0.0, 0.003, -0.002, 0.001, -0.004, 0.002)
    return lambda _pair, visit: center * (1 + cycle[visit % len(cycle)])


@pytest.mark.parametrize(
    ("center", "verdict", "code"),
    [(1.2, "SLOWER", 1), (0.8, "FASTER", 0), (1.0, "SAME", 0), (1.0195, "CANNOT TELL", 0)],
)
def test_the_verdict_and_its_exit_code(
    workers: FakeWorkers, center: float, verdict: str, code: int
) -> None:
    workers.times = noisy(center)
    done = ab("torch", "torch-folded")
    assert done.exit_code == code, done.output
    assert done.stdout.startswith(f"{verdict}: ")
    assert f"{center:.3f}" in done.stdout or verdict == "CANNOT TELL"
    assert "% interval" in done.stdout
    assert (done.stderr.splitlines()[-1] == "error: the verdict is SLOWER") == (code == 1)
    strict = ab("torch", "torch-folded", "--strict")
    assert strict.exit_code == (verdict in ("SLOWER", "CANNOT TELL"))


def test_only_one_arm_runs_at_a_time_and_each_goes_first(workers: FakeWorkers) -> None:
    assert ab("torch", "torch").exit_code == 0
    visits = workers.trace[:24]
    firsts = visits[::2]
    assert all({*pair} == {"arm A", "arm B"} for pair in zip(firsts, visits[1::2], strict=True))
    assert {*firsts} == {"arm A", "arm B"}
    assert workers.trace[24:] == ["end of arm B", "end of arm A"]


def test_a_wrong_arm_has_no_verdict(workers: FakeWorkers, tmp_path: Path) -> None:
    workers.times, workers.wrong = noisy(0.5), 0.1
    done = ab("torch", "torch-folded", "--json", str(tmp_path / "ab.json"))
    assert done.exit_code == 1
    assert "FASTER" not in done.output
    assert done.stderr.splitlines()[-1].startswith("error: the output of B is wrong: max error")
    stored = Duel.model_validate_json((tmp_path / "ab.json").read_text(), strict=True)
    assert stored.change.verdict == "CANNOT TELL"
    assert stored.arms[0].parity.passed
    assert not stored.arms[1].parity.passed


@pytest.mark.parametrize("strict", [(), ("--strict",)])
@pytest.mark.parametrize(
    ("center", "wrong", "outcomes"),
    [
        (1.2, 0.0, ["passed", "passed", "failure"]),
        (0.8, 0.0, ["passed", "passed", "passed"]),
        (1.0195, 0.0, ["passed", "passed", "skipped"]),
        (1.0, 0.1, ["passed", "failure", "skipped"]),
    ],
)
def test_the_reports_say_what_the_exit_code_says(
    workers: FakeWorkers,
    tmp_path: Path,
    center: float,
    wrong: float,
    outcomes: list[str],
    strict: tuple[str, ...],
) -> None:
    workers.times, workers.wrong = noisy(center), wrong
    report, summary = tmp_path / "ab.xml", tmp_path / "ab.md"
    files = ("--junit", str(report), "--markdown", str(summary))
    done = ab("torch", "torch-folded", *strict, *files)
    assert junit_schema.problems(report.read_text()) == []
    cases = list(ElementTree.parse(report).iter("testcase"))
    if strict:
        outcomes = [each.replace("skipped", "failure") for each in outcomes]
    assert [case[0].tag if len(case) else "passed" for case in cases] == outcomes
    assert (done.exit_code == 1) == ("failure" in outcomes)
    assert float(cases[2].get("time", "")) == pytest.approx(center / 1e3, rel=0.01)
    document = summary.read_text()
    verdict = document.partition(":")[0].removeprefix("# ")
    assert document.splitlines()[0] == f"# {verdict}: B against A, resnext11_8x4d_digits, batch 1"
    assert "| B | torch-folded (fp32) | " in document
    assert f"| {verdict} |" in document
    assert ("the output of B is wrong: max error" in document) == bool(wrong)


def test_a_file_that_another_output_needs_is_refused(workers: FakeWorkers) -> None:
    for option in ("--markdown", "--junit"):
        for path in ("-", "same"):
            done = ab("torch", "torch", option, path, "--json", "same")
            assert (done.exit_code, workers.trace) == (2, [])
            words = "file; only --json can go to stdout" if path == "-" else "separate file"
            assert f"error: {option} needs a {words}" in done.stderr


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Artifacts of the same network with different weights, as a pull request makes them."""
    folder = tmp_path_factory.mktemp("checkpoints")
    specs = {"base": "digits", "new": "seeded:1"}
    for name, spec in specs.items():
        weights = load_weights(spec, "resnext11_8x4d_digits")
        export_onnx(weights, folder / name, check=False)
    return [str(folder / name) for name in specs]


def test_each_arm_is_judged_by_its_own_weights(
    workers: FakeWorkers, digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = load_weights("seeded:1", "resnext11_8x4d_digits")
    a, b = (
        Arm(name, "torch", "torch", "fp32", None, None, weights)
        for name, weights in (("A", digits), ("B", other))
    )
    monkeypatch.setattr(duel_module, "arms_of", lambda *_: (a, b))
    outcome = duel_module.duel("torch", "torch")
    assert [arm.parity.passed for arm in outcome.arms] == [True, True]
    assert [arm.weights and arm.weights.sha256 for arm in outcome.arms] == [None, other.sha256]
    workers.mixed_up = True
    outcome = duel_module.duel("torch", "torch")
    assert [arm.parity.passed for arm in outcome.arms] == [True, False]


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (False, "is of another network than the other arm; only the same network can be compared"),
        (True, "is of other weights or preprocessing than requested"),
    ],
)
def test_an_artifact_of_another_network_has_no_ratio(
    digits: Weights, chosen: bool, words: str
) -> None:
    artifact = read_artifact(EARLIER / "onnx-fp32")
    with pytest.raises(UsageError, match=words):
        weights_of(artifact, digits, chosen=chosen)
    own = load_weights(str(EARLIER / "tiny.safetensors"), artifact.manifest.network)
    assert weights_of(artifact, own, chosen=chosen) is own


@pytest.mark.exhaustive
def test_two_checkpoints_of_a_network_are_each_judged_by_their_own_weights(
    workers: FakeWorkers, two_checkpoints: list[str], tmp_path: Path
) -> None:
    workers.times = noisy(1.2)
    files = ("--json", str(tmp_path / "ab.json"))
    done = CliRunner().invoke(main, ["ab", *two_checkpoints, *files])
    assert done.exit_code == 1, done.output
    assert done.stderr.splitlines()[-1] == "error: the verdict is SLOWER"
    assert "A and B have different weights" in done.stdout
    stored = Duel.model_validate_json((tmp_path / "ab.json").read_text(), strict=True)
    assert [arm.parity.passed for arm in stored.arms] == [True, True]
    assert stored.arms[0].weights is None
    assert stored.arms[1].weights is not None
    assert stored.arms[1].weights.sha256 != stored.weights.sha256
    workers.mixed_up = True
    wrong = CliRunner().invoke(main, ["ab", *two_checkpoints])
    assert "error: the output of B is wrong" in wrong.stderr


@pytest.mark.exhaustive
def test_artifacts_of_two_networks_have_no_ratio(
    workers: FakeWorkers, two_checkpoints: list[str], tmp_path: Path
) -> None:
    other = load_weights("seeded", "resnext11_8x4d_digits", num_classes=7)
    export_onnx(other, tmp_path / "seven", check=False)
    done = CliRunner().invoke(main, ["ab", two_checkpoints[0], str(tmp_path / "seven")])
    assert done.exit_code == 2
    assert "seven is of another network than the other arm" in done.stderr
    arguments = [*two_checkpoints, "--model", "resnext11_8x4d_digits", "--weights", "digits"]
    done = CliRunner().invoke(main, ["ab", *arguments])
    assert done.exit_code == 2
    assert "new is of other weights or preprocessing than requested" in done.stderr
    assert workers.trace == []


def test_disturbed_rounds_are_repeated_and_do_not_count(workers: FakeWorkers) -> None:
    """Every other round is disturbed, and so slow that it would decide."""
    workers.load = lambda visit: BUSY if (visit - 1) // 2 % 2 else QUIET
    workers.times = lambda _pair, visit: 5.0 if visit % 2 else 1.0
    done = ab("torch", "torch-folded")
    assert done.exit_code == 0, done.output
    assert "SAME" in done.stdout
    assert "12 of 23" in done.stdout


def test_a_disturbed_machine_has_no_verdict(workers: FakeWorkers) -> None:
    workers.load = lambda visit: BUSY if (visit - 1) // 2 % 5 else QUIET
    workers.times = lambda _pair, _visit: 3.0
    done = ab("torch", "torch-folded")
    assert done.exit_code == 0, done.output
    assert "CANNOT TELL" in done.stdout
    text = " ".join(done.stdout.split())
    assert "28 of 36 rounds were disturbed by other processes" in text
    assert ab("torch", "torch-folded", "--strict").exit_code == 1


def test_an_interval_over_processes(workers: FakeWorkers, tmp_path: Path) -> None:
    """Within each pair all rounds agree; only the pairs show how large the noise is."""
    workers.times = lambda pair, _visit: (1.09, 1.01, 1.03, 1.07)[pair]
    assert "SLOWER" in ab("torch", "torch").stdout
    workers.pairs = 0
    path = tmp_path / "ab.json"
    done = ab("torch", "torch", "--processes", "4", "--rounds", "3", "--json", str(path))
    assert done.exit_code == 0
    stored = json.loads(path.read_text())
    assert stored["change"]["verdict"] == "CANNOT TELL"
    assert stored["change"]["count"] == 4
    assert [each["pair"] for each in stored["measured"]] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    low, high = stored["change"]["ratio"][1:]
    assert (low, high) == pytest.approx((0.992, 1.110), abs=0.002)
    assert "more pairs of processes would tell" in " ".join(done.stdout.split())


def test_fewer_than_eight_rounds_cannot_tell(workers: FakeWorkers) -> None:
    workers.times = noisy(2.0)
    done = ab("torch", "torch", "--rounds", "5")
    assert done.exit_code == 0
    assert "5 rounds are too few for an interval; about 3 more rounds would tell" in " ".join(
        done.stdout.split()
    )


def test_a_terminal_of_60_columns_shows_both_arms(
    workers: FakeWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    workers.times = noisy(1.2)
    lines = ab("torch", "torch-folded").stdout.splitlines()
    assert max(map(len, lines)) <= 60
    (second,) = [line for line in lines if line.startswith("B ")]
    assert second.endswith(" SLOWER")
    assert "1.200" in second


def test_json_alone_on_stdout(workers: FakeWorkers) -> None:
    workers.times = noisy(1.0)
    done = ab("torch", "torch", "--json", "-")
    assert json.loads(done.stdout)["change"]["verdict"] == "SAME"
    assert "SAME" in done.stderr


def test_time_that_runs_out(workers: FakeWorkers) -> None:
    done = ab("torch", "torch", "--max-seconds", "0.001")
    assert done.exit_code == 1
    assert "out of time" in done.stderr
    assert workers.trace == ["end of arm B", "end of arm A"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("torch",), 2, "there is no B; name one, or another environment in --python"),
        (("torch", "oort"), 2, "unknown backend or folder 'oort'"),
        (("torch", "./none"), 4, "none"),
        (("torch", "openvino", "--precision", "fp8"), 2, "does not run fp8"),
        (("torch", "torch", "--backend", "ort"), 2, "--backend is the runtime for artifacts"),
        (("torch", "torch", "--rounds", "0"), 2, "--rounds"),
        (("torch", "torch", "--processes", "2"), 2, "--processes"),
        (("torch", "torch", "--margin", "0"), 2, "'0' must be a percentage above 0"),
        (("torch", "torch", "--margin", "nan"), 2, "must be a percentage"),
        (("torch", "ort-cuda"), 2, "--device"),
        (("torch", "--python", "none/python"), 4, "cannot run none/python"),
        ((), 2, "'A'"),
    ],
)
def test_wrong_calls_are_one_line(arguments: tuple[str, ...], code: int, words: str) -> None:
    done = ab(*arguments)
    assert words in done.stderr
    assert done.exit_code == code
    assert done.stdout == ""
    *progress, last = done.stderr.splitlines()
    assert last.startswith("error: ")
    assert all(" s  " in line for line in progress)


def test_rounds_stop_when_time_is_over_or_too_many_are_disturbed() -> None:
    class Fake:
        def visit(self, iterations: int, _expected_s: float) -> Visit:
            return Visit(times_ns=(1,) * iterations, load=BUSY)

    schedule = Schedule(rounds=4, duration_s=0.4, seed=0, threads=2)
    measured = measure_rounds((Fake(), Fake()), (1e6, 1e9), schedule)
    assert len(measured) == 12
    assert undisturbed(measured) == []
    assert [len(times) for times in measured[0].times_ns] == [100, 5]
    times = iter([False, False, True])
    assert (
        len(measure_rounds((Fake(), Fake()), (1e6, 1e6), schedule, over=lambda: next(times))) == 2
    )


# ---- real processes


@pytest.fixture(scope="module")
def other_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own with this toolkit and its libraries."""
    folder = tmp_path_factory.mktemp("other") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "toolkit.pth").write_text("\n".join(path for path in sys.path if path))
    return folder / "bin" / "python"


@pytest.mark.slow
def test_the_same_in_two_environments_is_neither_faster_nor_slower(
    other_environment: Path, tmp_path: Path
) -> None:
    path = tmp_path / "ab.json"
    done = ab(
        *("torch", "--python", str(other_environment), "--rounds", "2", "--duration", "0.1"),
        *("--warmup", "0", "--json", str(path)),
    )
    assert done.exit_code == 0, done.output
    stored = Duel.model_validate_json(path.read_text(), strict=True)
    assert stored.change.verdict in ("SAME", "CANNOT TELL")
    assert [arm.other_environment for arm in stored.arms] == [False, True]
    assert all(arm.parity.passed for arm in stored.arms)
    assert stored.arms[0].environment.packages == stored.arms[1].environment.packages
    assert all(len(each.times_ns[0]) >= 5 for each in stored.measured)
    assert str(tmp_path) not in path.read_text()
    assert str(other_environment) not in path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "sent", [pytest.param(signal.SIGINT, marks=pytest.mark.exhaustive), signal.SIGKILL]
)
def test_the_workers_end_with_the_command(tmp_path: Path, sent: signal.Signals) -> None:
    """In the middle of a visit that takes a minute."""
    command = [sys.executable, "-m", "resnext_bench.cli.bench", "ab", "torch", "torch"]
    command += ["--weights", "digits", "--duration", "600", "--warmup", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stderr is not None
    for line in process.stderr:
        if "round 1/" in line:
            break
    workers = [*children(process.pid)]
    assert len(workers) == 2
    process.send_signal(sent)
    _, errors = process.communicate(timeout=30)
    if sent == signal.SIGINT:
        assert process.returncode == 130
        assert errors.splitlines()[-1] == "interrupted; nothing half-written was left"
    end = time.monotonic() + 5
    while any(map(exists, workers)) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(map(exists, workers))


def children(pid: int) -> Iterator[int]:
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        yield from map(int, listed.read_text().split())


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_a_worker_says_what_is_wrong_with_its_job(digits: Weights) -> None:
    job = Job(
        backend="torch",
        artifact=None,
        artifact_sha256=None,
        config=digits.config,
        weights="seeded",
        weights_sha256="0" * 64,
        preprocessing=default_preprocessing(digits.config),
        precision="fp32",
        batch=1,
        images=7,
        seed=0,
        device="cpu",
        threads=1,
        warmup_s=0,
    )
    with Worker("arm A") as worker, pytest.raises(ValueError, match="arm A: weights seeded are"):
        worker.open(job)
