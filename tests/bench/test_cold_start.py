"""Cold starts in fresh processes, and after how many images a build is paid back."""

from __future__ import annotations

import mmap
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resnext
from fakes.calm import calm
from resnext.artifact.files import Artifact
from resnext.errors import GateFailed, ResnextError, UsageError
from resnext.runtimes.registry import SessionOptions
from resnext.weights.spec import Weights, load_weights
from resnext_bench import ColdStart, benchmark, read_run
from resnext_bench.deadline import Deadline
from resnext_bench.measure import Samples, Subject
from resnext_bench.plan import Case
from resnext_bench.record import Row
from resnext_bench.report import text
from resnext_bench.report.payback import payback
from resnext_bench.scenarios.cold_record import ColdStartRecord, Start
from resnext_bench.scenarios.page_cache import drop_pages
from resnext_bench.scenarios.scenario import Stage, go_through
from resnext_bench.stats import timing_of
from resnext_export import ExportRequest, build_or_reuse

QUICK: dict[str, Any] = {"duration": 0.01, "rounds": 2, "warmup": 0.0}
#: What a start reports that took 1.5 s in all, 0.3 s of it compiling.
STARTED = Start(
    python_s=0.1,
    library_s=0.4,
    toolkit_s=0.2,
    open_s=0.4,
    first_s=0.4,
    steady_s=0.1,
    peak_host_bytes=10**8,
)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary folders, to be empty afterwards."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(scope="module")
def digits() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="module")
def artifact(digits: Weights) -> Artifact:
    return build_or_reuse(ExportRequest(), digits).artifact


def stage_of(artifact: Artifact | None, backend: str, weights: Weights, **others: Any) -> Stage:
    options = SessionOptions(device="cpu", threads=1)
    session = resnext.open_session(artifact or weights, backend, threads=1)
    (spec,) = session.inputs
    inputs = {spec.name: np.zeros((2, 1, 8, 8), np.float32)}
    subject = Subject(session, inputs, session.bind(inputs))
    fields: dict[str, Any] = {"deadline": Deadline(), "options": options, **others}
    return Stage(Case(backend, 2), subject, Samples(), weights, artifact, 0, **fields)


def stubbed(
    monkeypatch: pytest.MonkeyPatch, folder: Path, body: str, weights: Weights
) -> tuple[ColdStart, Stage]:
    """A cold start whose process runs ``body``."""
    name = f"stub_{abs(hash(body))}"
    (folder / f"{name}.py").write_text(
        "import json, os, sys, time\ndef main():\n"
        "    job = json.loads(sys.stdin.readline())\n"
        f"    say = lambda reply: os.write(int(sys.argv[1]), reply.encode() + b'\\n')\n    {body}\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr("resnext_bench.scenarios.cold_start._MODULE", name)
    return ColdStart(2, timeout_s=20.0), stage_of(None, "torch", weights)


def test_a_real_start_of_an_artifact(artifact: Artifact, digits: Weights, scratch: Path) -> None:
    assert artifact.manifest.build_s is not None
    assert artifact.manifest.build_s > 0
    record = real_start(stage_of(artifact, "ort-cpu", digits))
    assert record.build_s == artifact.manifest.build_s
    assert list(scratch.iterdir()) == []


@pytest.mark.exhaustive
@pytest.mark.parametrize("backend", ["torch", "openvino", "onnx-reference"])
def test_a_real_start_of_other_runtimes(
    artifact: Artifact, digits: Weights, scratch: Path, backend: str
) -> None:
    live = backend == "torch"
    record = real_start(stage_of(None if live else artifact, backend, digits))
    assert record.build_s == (0.0 if live else artifact.manifest.build_s)
    assert list(scratch.iterdir()) == []


def real_start(stage: Stage) -> ColdStartRecord:
    began = time.monotonic()
    record = ColdStart(1)(stage)
    took = time.monotonic() - began
    (first,), (second,) = record.without_caches, record.with_caches
    assert 0.1 < first.total_s + second.total_s < took
    for start in (first, second):
        assert min(start.python_s, start.library_s, start.open_s, start.first_s) > 0
        assert start.peak_host_bytes is not None
        assert start.peak_host_bytes > 30e6
    assert ColdStartRecord.model_validate_json(record.model_dump_json()) == record
    return record


def test_each_repetition_begins_with_empty_caches_and_goes_on_in_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scratch: Path, digits: Weights
) -> None:
    body = (
        "names = ('RESNEXT_CACHE_DIR', 'TORCHINDUCTOR_CACHE_DIR', 'XDG_CACHE_HOME')\n"
        "    full = all(os.listdir(os.environ[name]) for name in names)\n"
        "    [open(os.path.join(os.environ[name], 'compiled'), 'w') for name in names]\n"
        f"    start = {STARTED.model_dump()!r} | {{'first_s': 0.1 if full else 0.4}}\n"
        "    say(json.dumps(start))"
    )
    scenario, stage = stubbed(monkeypatch, tmp_path, body, digits)
    before = os.environ["RESNEXT_CACHE_DIR"]
    record = scenario(stage)
    assert [start.first_s for start in record.without_caches] == [0.4, 0.4]
    assert [start.first_s for start in record.with_caches] == [0.1, 0.1]
    assert os.environ["RESNEXT_CACHE_DIR"] == before
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("os.kill(os.getpid(), 9)", r"torch: its process died \(signal SIGKILL\)"),
        ("print('no room'); sys.exit(3)", r"torch: its process died \(exit code 3\): no room"),
        ("say('hello')", "torch: its process sent something else than an answer"),
        ("time.sleep(600)", "torch: its process did not answer for 1 s"),
        (
            "say(json.dumps(dict(kind='BadArtifact', message='planted', hint='')))",
            "torch: planted",
        ),
    ],
)
def test_a_process_that_fails_is_one_clear_line_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    scratch: Path,
    digits: Weights,
    body: str,
    message: str,
) -> None:
    _, stage = stubbed(monkeypatch, tmp_path, body, digits)
    timeout_s = 1.0 if "sleep" in body else 20.0
    with pytest.raises(ResnextError, match=message):
        ColdStart(1, timeout_s)(stage)
    assert list(scratch.iterdir()) == []


def test_an_interruption_ends_the_process_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scratch: Path, digits: Weights
) -> None:
    pid = tmp_path / "pid"
    body = f"open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    scenario, stage = stubbed(monkeypatch, tmp_path, body, digits)

    def interrupted(*_: Any) -> Iterator[Any]:
        while not pid.exists() or not pid.read_text():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr("resnext_bench.child.select.select", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scenario(stage)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert list(scratch.iterdir()) == []


def test_out_of_time_is_said_and_whole_pairs_are_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, digits: Weights
) -> None:
    body = f"say(json.dumps({STARTED.model_dump()!r}))"
    scenario, stage = stubbed(monkeypatch, tmp_path, body, digits)
    with pytest.raises(GateFailed, match="out of time"):
        scenario(Stage(**{**vars(stage), "deadline": Deadline(0.0)}))

    def interrupt(_: str) -> None:
        stage.deadline.interrupted = True

    record = scenario(Stage(**{**vars(stage), "say": interrupt}))
    assert (len(record.without_caches), len(record.with_caches)) == (1, 1)
    with pytest.raises(UsageError, match="at least 1 repetition"):
        ColdStart(0)


def test_pages_that_a_process_has_mapped_stay_and_others_go(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1 << 20))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert len(bytes(mapped)) == 1 << 20  # touches every page
        assert drop_pages([path]) is False
    if drop_pages([path]) is False:
        pytest.skip("this file system lives in memory")
    assert drop_pages([path]) is True
    assert drop_pages([tmp_path / "missing"]) is None


def row(
    images_per_s: float,
    build_s: float | None = 0.0,
    start_s: float = 1.5,
    speedup: tuple[float, float, float] | None = None,
    **changes: Any,
) -> Row:
    start = STARTED.model_copy(update={"first_s": STARTED.first_s + start_s - 1.5})
    took_ns = int(8e9 / images_per_s)
    timing = timing_of("host", [[took_ns] * 4] * 8, 8).model_copy(update={"speedup": speedup})
    facts: dict[str, Any] = {
        "backend": "torch",
        "batch": 8,
        "status": "valid",
        "timings": (timing,),
        "cold_start": ColdStartRecord(
            without_caches=(start,),
            with_caches=(STARTED,),
            file_dropped=True,
            build_s=build_s,
        ),
    }
    return Row(**(facts | changes))


BASE = row(100.0)


@pytest.mark.parametrize(
    ("faster", "images", "reason"),
    [
        # 10 s of build, 5 ms saved with each image
        (row(200, 10, speedup=(2.0, 1.9, 2.1)), (2000, 10 / (0.01 - 0.01 / 2.1)), ""),
        # a start of 2 s more, too
        (row(200, 10, 3.5, (2.0, 1.9, 2.1)), (2400, 12 / (0.01 - 0.01 / 2.1)), ""),
        (row(200, 0, 0.9, (2.0, 1.9, 2.1)), (0, 0), ""),
        (row(200, 1, 0.5, (2.0, 1.9, 2.1)), (0, 0), ""),
        (row(90, 10, speedup=(0.9, 0.89, 0.91)), None, "never: it is not faster"),
        (row(100, 10, speedup=(1.0, 0.99, 1.01)), None, "never: it is not faster"),
        (row(101, 10, speedup=(1.01, 0.99, 1.02)), None, "never for sure"),
        (row(101, 10, speedup=(1.015, 1.005, 1.02)), None, "never for sure"),  # in the noise floor
        (row(200, 10), None, "not known: no speedup"),
        (row(200, None, speedup=(2.0, 1.9, 2.1)), None, "not known: an artifact does not say"),
        (row(200, 10, cold_start=None), None, "not known: there is no cold start of both rows"),
        (row(200, 10, timings=()), None, "not known: there is no cold start of both rows"),
    ],
)
def test_a_build_is_paid_back_after_as_many_images_as_its_cost_over_what_each_saves(
    faster: Row, images: tuple[float, float] | None, reason: str
) -> None:
    paid = payback(faster, BASE, noise_floor=0.01)
    assert paid.reason.startswith(reason)
    assert bool(paid.reason) == bool(reason)
    if images is None:
        assert paid.images is None
    else:
        assert paid.images == pytest.approx(images[0])
        assert paid.low == pytest.approx(images[1])
        assert paid.low is not None
        assert paid.high is not None
        assert paid.low <= (paid.images or 0) <= paid.high


def test_a_run_shows_its_cold_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scratch: Path
) -> None:
    calm(monkeypatch)
    body = f"say(json.dumps({STARTED.model_dump()!r}))"
    scenario, stage = stubbed(monkeypatch, tmp_path, body, load_weights("digits"))
    run = benchmark("torch", weights="digits", scenarios=[scenario], **QUICK)
    faster = row(200, 10, speedup=(2.0, 1.9, 2.1), backend="ort-cpu")
    both = run.model_copy(update={"rows": (BASE, faster), "control": None})
    for report in (text(both), both.markdown()):
        assert "Cold start" in report
        assert "ort-cpu batch 8  none    1.50 (1.50-1.50)" in report
        assert "against torch batch 8: after 2,000 images (1,910 to 2,110)" in report
        assert "page cache" not in report
    paid = "ort-cpu batch 8 against torch batch 8: after 2,000 images (1,910 to 2,110)"
    assert paid in both.html()
    # Speedups are over the first row: without its start, those of others say nothing.
    rows = (row(100.0, cold_start=None), faster, faster.model_copy(update={"backend": "openvino"}))
    without = both.model_copy(update={"rows": rows})
    for report in (text(without), without.html()):
        assert " batch 8 against " not in report
    path = tmp_path / "run.json"
    path.write_text(run.model_dump_json())
    assert read_run(path).rows[0].cold_start == run.rows[0].cold_start
    monkeypatch.setattr("resnext_bench.scenarios.cold_start._MODULE", "no_such_module")
    failure = go_through([ColdStart(1)], stage).errors["cold_start"]
    assert "torch: its process died (exit code 1): ModuleNotFoundError" in str(failure)
    assert list(scratch.iterdir()) == []


def test_a_session_that_fails_in_the_process_fails_with_its_own_error(
    artifact: Artifact, digits: Weights
) -> None:
    stage = stage_of(artifact, "ort-cpu", digits)
    broken = Stage(**{**vars(stage), "options": SessionOptions(device="cuda")})
    with pytest.raises(UsageError, match="ort-cpu: backend 'ort-cpu' runs on cpu only"):
        ColdStart(1)(broken)
