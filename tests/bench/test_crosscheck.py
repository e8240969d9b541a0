"""The cross-check with the peers' tools: fakes that print recorded output, sound and faulty, and
the real tools that a Python environment has.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import resnext_bench.cli.crosscheck as command
from resnext.artifact.files import Artifact
from resnext.errors import SessionFailed, SilentFallback
from resnext.machine.load import Load, Meter
from resnext.machine.threads import thread_budget
from resnext.timing.intervals import Interval
from resnext.weights.spec import load_weights
from resnext_bench.cli.bench import main
from resnext_bench.crosscheck import process, run
from resnext_bench.crosscheck.comparison import Round, ratio_of, verdict_of
from resnext_bench.crosscheck.ours import opened
from resnext_bench.crosscheck.process import run_tool
from resnext_bench.crosscheck.setup import Setup
from resnext_bench.crosscheck.tools import TOOLS
from resnext_bench.crosscheck.trtexec import TRTEXEC

from exported import export_onnx  # isort: skip

#: A fixture hides it.
PYTHON = sys.executable
QUIET: dict[str, Any] = {"wall_s": 1.0, "processors": 2, "cores": 2, "own": 1.0, "others": 0.0}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(load_weights("digits"), tmp_path_factory.mktemp("digits") / "out")


def setup_of(artifact: Artifact, folder: Path, **changes: Any) -> Setup:
    facts: dict[str, Any] = {
        "path": artifact.path.resolve(),
        "folder": folder,
        "input_name": "input",
        "input_dtype": "float32",
        "shape": (8, 1, 8, 8),
        "free_dimension": "batch",
        "compute_dtype": "float32",
        "hint": "latency",
        "threads": 1,
        "streams": 1,
        "duration_s": 1,
    }
    return Setup(**(facts | changes))


# ---- the verdict


def rounds(ratio: float, count: int = 8, noise: float = 0.0) -> list[Round]:
    return [
        Round(ours_ns=ratio * 1000 * (1 + noise * (-1) ** index), theirs_ns=1000)
        for index in range(count)
    ]


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        (rounds(1.0), "AGREE"),
        (rounds(1.029), "AGREE"),
        (rounds(1 / 1.029), "AGREE"),
        (rounds(1.04), "DIFFER"),
        (rounds(0.9), "DIFFER"),
        (rounds(1.03, noise=0.01), "CANNOT TELL"),
        (rounds(1.0, noise=0.1), "CANNOT TELL"),
        (rounds(1.0, 5), "CANNOT TELL"),
        (rounds(2.0, 5), "CANNOT TELL"),
        (rounds(1.0, 6), "AGREE"),
        ([], "CANNOT TELL"),
    ],
)
def test_the_verdict_is_by_the_interval_and_takes_six_rounds(
    made: list[Round], verdict: str
) -> None:
    assert verdict_of(ratio_of(made)) == verdict


def test_disturbed_rounds_do_not_count() -> None:
    disturbed = [Round(ours_ns=5000, theirs_ns=1000, disturbances=("steal",))] * 8
    ratio = ratio_of([*rounds(1.0), *disturbed])
    assert ratio == Interval(1.0, 1.0, 1.0)
    assert ratio_of([*rounds(1.0, 5), *disturbed]) is None


# ---- fake tools, planted beside the Python that runs

#: Prints what benchmark_app 2026.4 prints, of the options that it was given.
BENCHMARK_APP = '''
import json, os, sys
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
fault = {fault!r}
def told(fact, flag):
    return {{"threads": "7", "streams": "3", "file": "/other.onnx", "precision": "bfloat16",
             "shape": "1,1,8,8", "input": "u8",
             "version": "2020.1.0"}}[fact] if fault == fact else flag
kind = told("input", options["-ip"])
name, _, shape = options["-shape"].rstrip("]").partition("[")
precision = {{"f32": "float32", "f16": "float16", "bf16": "bfloat16"}}[options["-infer_precision"]]
with open(os.path.join(options["-report_folder"], "benchmark_report.json"), "w") as file:
    json.dump({{"cmd_options": {{"-m": told("file", options["-m"])}}}}, file)
print(f"""[ INFO ] OpenVINO:
[ INFO ] Build ................................. {{told("version", {version!r})}}-22982-e213a147257
[ INFO ] Model inputs:
[ INFO ]     input (node: input) : f32 / [...] / [?,1,8,8]
[ INFO ] Model outputs:
[ INFO ]     logits (node: logits) : f32 / [...] / [?,10]
[ INFO ] Model inputs:
[ INFO ]     input (node: input) : {{kind}} / [N,C,H,W] / [{{told("shape", shape)}}]
[ INFO ] Model outputs:
[ INFO ]     logits (node: logits) : f32 / [...] / [8,10]
[ INFO ]   OPTIMAL_NUMBER_OF_INFER_REQUESTS: 1
[ INFO ]   NUM_STREAMS: {{told("streams", options["-nstreams"])}}
[ INFO ]   INFERENCE_NUM_THREADS: {{told("threads", options["-nthreads"])}}
[ INFO ]   INFERENCE_PRECISION_HINT: <Type: '{{told("precision", precision)}}'>
[ INFO ] Count:            2000 iterations
[ INFO ] Duration:         2002.00 ms
[ INFO ]    Median:        0.39 ms
[ INFO ] Throughput:   5125.88 FPS""")
'''
PERF_TEST = """
import sys
threads = sys.argv[sys.argv.index("-x") + 1]
print(f'''Setting intra_op_num_threads to {threads}
Session creation time cost: 0.0508382 s
First inference time cost: 2 ms
Total inference time cost: 1.9918 s
Total inference requests: 2000
Average inference time cost: 0.9959 ms
Total inference run time: 2.002 s
Number of inferences per second: 999.0
Avg CPU usage: 12 %''')
"""
TRTEXEC_OUTPUT = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v101600] # trtexec --loadEngine={path} --shapes={shape}
[11/27/2026-15:30:36] [I] === Inference Options ===
[11/27/2026-15:30:36] [I] Batch: Explicit
[11/27/2026-15:30:36] [I] Input inference shape : input=8x1x8x8
[11/27/2026-15:30:36] [I] Inference Streams: 1
[11/27/2026-15:30:36] [I] Data transfers: Disabled
[11/27/2026-15:30:36] [I] CUDA Graph: Enabled
[11/27/2026-15:30:40] [I] Timing trace has 669 queries over 3.01153 s
[11/27/2026-15:30:40] [I] === Performance summary ===
[11/27/2026-15:30:40] [I] Throughput: 130.298 qps
[11/27/2026-15:30:40] [I] Enqueue Time: min = 2.72 ms, max = 15 ms, mean = 7.63 ms, median = 7.9 ms
[11/27/2026-15:30:40] [I] GPU Compute Time: min = 5.34595 ms, max = 13.3388 ms, mean = 7.58404 ms, \
median = 7.14139 ms, percentile(90%) = 10.2881 ms, percentile(95%) = 10.8175 ms
[11/27/2026-15:30:40] [I] Total GPU Compute Time: 2.96536 s
"""


def plant(folder: Path, name: str, text: str) -> Path:
    """An executable in Python."""
    program = folder / name
    program.write_text(f"#!{PYTHON}\n{text}")
    program.chmod(0o755)
    return program


def openvino_version() -> str:
    from resnext.runtimes.openvino.library import VERSION

    return str(VERSION)


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for tools, alone on PATH, without the real ones; our side takes 1 ms a run."""
    folder = tmp_path / "bin"
    folder.mkdir()

    class Ours:
        def run_ns(self, _duration_s: float) -> float:
            return 1e6

    @contextmanager
    def instant(*_: object) -> Iterator[Ours]:
        yield Ours()

    class QuietMeter:
        def read(self) -> None:
            """Nothing."""

        def since(self, _before: object) -> Load:
            return Load(**QUIET)

    monkeypatch.setattr(run, "opened", instant)
    monkeypatch.setattr(run, "Meter", QuietMeter)
    monkeypatch.setattr("resnext_bench.crosscheck.tool.sys.executable", str(folder / "python"))
    monkeypatch.setenv("PATH", str(folder))
    return folder


def crosscheck(artifact: Artifact, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["crosscheck", str(artifact.directory), *arguments])


def test_sound_tools_agree_and_the_json_has_every_round(
    digits: Artifact, fakes: Path, tmp_path: Path
) -> None:
    plant(fakes, "benchmark_app", BENCHMARK_APP.format(fault="", version=openvino_version()))
    plant(fakes, "onnxruntime_perf_test", PERF_TEST)
    target = tmp_path / "check.json"
    for tool, hint in (("benchmark_app", "both"), ("onnxruntime_perf_test", "latency")):
        done = crosscheck(
            digits, "--tool", tool, "--batch", "8", "--rounds", "6", "--hint", hint,
            "--json", str(target),
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        comparisons = json.loads(target.read_text())["comparisons"]
        assert len(comparisons) == 1 + (hint == "both")
        for each in comparisons:
            assert each["verdict"] == "AGREE"
            assert len(each["rounds"]) == 6
            assert each["rounds"][0] == {
                "ours_ns": 1e6,
                "theirs_ns": pytest.approx(1.001e6),
                "disturbances": [],
            }
        assert f"{tool} " in done.stdout
        assert "0.999 to 0.999" in done.stdout
        assert "6 of 6" in done.stdout
    assert comparisons[0]["streams"] == 1


def test_a_tool_that_is_slower_differs(
    digits: Artifact, fakes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    plant(fakes, "onnxruntime_perf_test", PERF_TEST.replace("2.002 s", "2.2 s"))
    done = crosscheck(digits, "--tool", "onnxruntime_perf_test", "--rounds", "6")
    assert done.exit_code == 1
    assert "DIFFER" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "onnxruntime_perf_test (latency) differ by more than 3 %" in done.stderr


def test_rounds_that_were_disturbed_do_not_count_and_no_verdict_is_made_of_them(
    digits: Artifact, fakes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Busy:
        def read(self) -> None:
            """Nothing."""

        def since(self, _before: object) -> Load:
            return Load(**(QUIET | {"others": 2.0, "waiting": 0.5}))

    plant(fakes, "onnxruntime_perf_test", PERF_TEST.replace("2.002 s", "2.2 s"))
    monkeypatch.setattr(run, "Meter", Busy)
    done = crosscheck(digits, "--tool", "onnxruntime_perf_test", "--rounds", "3")
    assert done.exit_code == 0
    assert "0 of 6" in done.stdout
    assert "CANNOT TELL" in done.stdout
    assert "6 rounds do not count: other processes" in done.stdout


@pytest.mark.parametrize(
    ("fault", "part"),
    [
        ("threads", "it ran with threads 7 instead of 1"),
        ("streams", "streams 3 instead of 1"),
        ("file", "file /other.onnx instead of"),
        ("precision", "precision bfloat16 instead of float32"),
        ("shape", "shape 1x1x8x8 instead of 8x1x8x8"),
        ("input", "input uint8 instead of float32"),
        ("version", "version 2020.1.0 instead of"),
    ],
)
def test_a_tool_that_ran_something_else_is_not_compared(
    digits: Artifact, fakes: Path, fault: str, part: str
) -> None:
    plant(fakes, "benchmark_app", BENCHMARK_APP.format(fault=fault, version=openvino_version()))
    done = crosscheck(digits, "--batch", "8", "--threads", "1", "--tool", "benchmark_app")
    assert done.exit_code == SilentFallback.exit_code
    assert part in done.stderr
    assert sum("error" in line for line in done.stderr.splitlines()) == 1
    assert "AGREE" not in done.stdout


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("raise SystemExit('no such model')", "failed with exit code 1: no such model"),
        ("raise SystemExit(3)", "failed with exit code 3: it printed nothing"),
        ("print('hello')", "its output has no number of requests; try"),
        (PERF_TEST.replace("2.002 s", "0 s"), "its output has no run time, but '0'"),
        (PERF_TEST.replace("requests: 2000", "requests: 0"), "no number of requests, but '0'"),
        (PERF_TEST.replace("2.002 s", "1e999 s"), "no run time, but '1e999'"),
        (PERF_TEST.replace("2.002 s", "..e s"), "no run time"),
        ("import os; os.kill(os.getpid(), 9)", "was killed by signal 9 (Killed)"),
        ("import time; time.sleep(60)", "did not end within 1 s and was stopped"),
    ],
)
def test_a_tool_that_fails_is_one_line_and_an_exit_code(
    digits: Artifact, fakes: Path, monkeypatch: pytest.MonkeyPatch, text: str, part: str
) -> None:
    monkeypatch.setattr(process, "STARTUP_S", -1.0)
    if "sleep" not in text:
        monkeypatch.setattr(process, "STARTUP_S", 60.0)
    plant(fakes, "onnxruntime_perf_test", text)
    done = crosscheck(digits, "--tool", "onnxruntime_perf_test", "--duration", "1")
    assert done.exit_code == SessionFailed.exit_code
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: onnxruntime_perf_test")
    assert part in line


def test_the_report_of_an_earlier_visit_is_not_read_again(
    digits: Artifact, fakes: Path, tmp_path: Path
) -> None:
    setup = setup_of(digits, tmp_path / "reports", version=openvino_version())
    setup.folder.mkdir()
    sound = BENCHMARK_APP.format(fault="", version=openvino_version())
    plant(fakes, "benchmark_app", sound)
    run.visit_tool(TOOLS["benchmark_app"], setup)
    for name in ("other.json", "/dev/null"):  # another file, and none at all
        plant(fakes, "benchmark_app", sound.replace("benchmark_report.json", name))
        with pytest.raises(SessionFailed, match=r"its report .* is missing or names no file"):
            run.visit_tool(TOOLS["benchmark_app"], setup)


def test_a_tool_that_hangs_ends_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = plant(
        tmp_path,
        "forks",
        "import os, time\npid = os.fork()\nopen('pid', 'a').write(f'{os.getpid()}\\n')\n"
        "time.sleep(60)\n",
    )
    monkeypatch.setattr(process, "STARTUP_S", -1.0)
    with pytest.raises(SessionFailed, match="did not end"):
        run_tool("forks", [str(program)], 1.0, tmp_path)
    pids = [int(line) for line in (tmp_path / "pid").read_text().split()]
    assert len(pids) == 2
    until = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(map(alive, pids))


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]
    except OSError:
        return False


def test_the_time_of_a_tool_is_that_of_a_finished_child(tmp_path: Path) -> None:
    program = plant(
        tmp_path, "burns", "import time\nend = time.process_time() + 0.3\n"
        "while time.process_time() < end: pass\n"
    )  # fmt: skip
    before = Meter().read().own_s
    run_tool("burns", [str(program)], 1.0, tmp_path)
    assert Meter().read().own_s - before > 0.3


def test_no_tool_can_import_the_telemetry(tmp_path: Path) -> None:
    program = plant(tmp_path, "imports", "import openvino_telemetry")
    with pytest.raises(SessionFailed, match="ImportError: no telemetry"):
        run_tool("imports", [str(program)], 1.0, tmp_path)


def test_a_program_that_is_none_is_one_line(tmp_path: Path) -> None:
    program = tmp_path / "text"
    program.write_text("no program")
    program.chmod(0o755)
    with pytest.raises(SessionFailed, match="text does not start: Exec format error"):
        run_tool("text", [str(program)], 1.0, tmp_path)


def test_the_first_tool_that_fails_does_not_hide_the_others(digits: Artifact, fakes: Path) -> None:
    plant(fakes, "benchmark_app", "raise SystemExit(1)")
    plant(fakes, "onnxruntime_perf_test", PERF_TEST)
    plant(fakes, "python", "raise SystemExit('no onnxruntime')")  # for the plain loop
    done = crosscheck(digits, "--rounds", "6")
    assert done.exit_code == SessionFailed.exit_code
    assert "error: benchmark_app failed with exit code 1" in done.stderr
    assert "onnxruntime_perf_test" in done.stdout
    assert "AGREE" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (("--tool", "benchmark_app"), 3, "error: benchmark_app is neither beside this Python nor"),
        (("--tool", "onnxruntime_perf_test"), 3, "build ONNX Runtime from source"),
        (("--tool", "trtexec"), 2, "trtexec runs trt files, and"),
        (("--tool", "bench_app"), 2, "unknown tool 'bench_app'"),
        (("--tool", "onnxruntime", "--hint", "throughput"), 2, "measures latency alone"),
        (("--rounds", "0"), 2, "--rounds"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_line(
    digits: Artifact, fakes: Path, arguments: tuple[str, ...], code: int, part: str
) -> None:
    done = crosscheck(digits, *arguments)
    assert done.exit_code == code
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert part in line
    assert done.stdout == ""
    assert list(fakes.iterdir()) == []


def test_the_command_knows_every_tool() -> None:
    assert tuple(TOOLS) == command._TOOLS


# ---- command lines and output of tools that are not here


def test_trtexec_gets_everything_and_its_mean_compute_time_is_read(
    digits: Artifact, tmp_path: Path
) -> None:
    setup = setup_of(digits, tmp_path, cuda_graph=True)
    flags = TRTEXEC.command("trtexec", setup)
    assert flags[1:4] == [f"--loadEngine={setup.path}", "--shapes=input:8x1x8x8", "--duration=1"]
    assert {"--noDataTransfers", "--infStreams=1", "--useCudaGraph"} <= set(flags)
    output = TRTEXEC_OUTPUT.format(path=setup.path, shape="input:8x1x8x8")
    visit = TRTEXEC.read(output, setup)
    assert (visit.run_ns, visit.runs) == (7.58404e6, 669)
    assert {fact: setup.facts[fact] for fact in TRTEXEC.told} == visit.facts
    without = TRTEXEC.read(output.replace("Enabled", "Disabled"), setup)
    assert without.facts["CUDA graph"] == "False" != setup.facts["CUDA graph"]


def test_trtexec_is_started_and_held_to_the_engine_that_it_was_given(
    digits: Artifact, fakes: Path, tmp_path: Path
) -> None:
    reports = tmp_path / "reports"
    reports.mkdir()
    setup = setup_of(digits, reports, cuda_graph=True)
    sound = TRTEXEC_OUTPUT.format(path="{path}", shape="{shape}")
    text = (
        "import sys\n"
        "flags = dict(flag.partition('=')[::2] for flag in sys.argv[1:])\n"
        f"text = {sound!r}\n"
        "print(text.format(path=flags['--loadEngine'], shape=flags['--shapes']))\n"
    )
    plant(fakes, "trtexec", text)
    assert run.visit_tool(TRTEXEC, setup).run_ns == 7.58404e6
    plant(fakes, "trtexec", text.replace("flags['--loadEngine']", "'/other.engine'"))
    with pytest.raises(SilentFallback, match=r"file /other\.engine instead of"):
        run.visit_tool(TRTEXEC, setup)
    plant(fakes, "trtexec", text.replace("Enabled", "Disabled"))
    with pytest.raises(SilentFallback, match="CUDA graph False instead of True"):
        run.visit_tool(TRTEXEC, setup)


def test_benchmark_app_gets_no_hint_because_it_then_refuses_threads(
    digits: Artifact, tmp_path: Path
) -> None:
    tool = TOOLS["benchmark_app"]
    line = " ".join(tool.command("benchmark_app", setup_of(digits, tmp_path, threads=2)))
    assert "-hint none -api sync -nstreams 1 -nthreads 2 -infer_precision f32 -ip f32" in line
    assert "-shape input[8,1,8,8] -inference_only true -t 1 " in line
    many = setup_of(digits, tmp_path, hint="throughput", threads=4, streams=4)
    assert "-api async -nireq 4 -nstreams 4 -nthreads 4" in " ".join(tool.command("app", many))


# ---- the real ones


@pytest.mark.parametrize("tool", ["benchmark_app", "onnxruntime"])
def test_a_real_tool_reports_what_it_was_told(digits: Artifact, tmp_path: Path, tool: str) -> None:
    pytest.importorskip({"benchmark_app": "openvino"}.get(tool, tool))
    if TOOLS[tool].program() is None:
        pytest.skip(f"no {tool} beside this Python or on PATH")
    visit = run.visit_tool(TOOLS[tool], setup_of(digits, tmp_path))
    assert visit.runs > 10
    assert 1e3 < visit.run_ns < 1e9
    assert set(TOOLS[tool].told) <= set(visit.facts)


@pytest.mark.parametrize(
    ("tool", "streams"), [("benchmark_app", 1), ("benchmark_app", 2), ("onnxruntime", 1)]
)
def test_our_side_runs_bound_inputs_in_each_stream(
    digits: Artifact, tmp_path: Path, tool: str, streams: int
) -> None:
    if thread_budget().count < streams and os.environ.get("OMP_NUM_THREADS") is None:
        pytest.skip("needs two cores")
    setup = setup_of(digits, tmp_path, threads=streams, streams=streams)
    with opened(digits, TOOLS[tool], setup) as ours:
        assert len(ours.bounds) == streams
        assert 1e3 < ours.run_ns(0.02) < 1e9
