"""A worker that is missing, dies, hangs or talks nonsense is one clear line; none stays behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resnext.errors import BadInput, MissingRequirement, ResnextError, SessionFailed, UsageError
from resnext.images.preprocessing import default_preprocessing
from resnext.network.config import ResNeXtConfig
from resnext_bench import child
from resnext_bench.ab import process
from resnext_bench.ab.process import Worker
from resnext_bench.ab.protocol import Job, Logits

HELLO = "say('{\"version\":3}')\n"
JOB = Job(
    backend="torch",
    artifact=None,
    artifact_sha256=None,
    config=ResNeXtConfig(),
    weights="seeded",
    weights_sha256="0" * 64,
    preprocessing=default_preprocessing(ResNeXtConfig()),
    precision="fp32",
    batch=1,
    images=1,
    seed=0,
    device="cpu",
    threads=1,
    warmup_s=0,
)


def interpreter(folder: Path, script: str) -> Path:
    """A program in the place of another environment's interpreter."""
    path = folder / "python"
    path.write_text(
        f"#!{sys.executable} -S\nimport os, sys, time\n"
        "def say(text): os.write(int(sys.argv[-1]), text.encode() + b'\\n')\n" + script
    )
    path.chmod(0o755)
    return path


def failure(kind: str) -> str:
    return HELLO + f'say(\'{{"kind":"{kind}","message":"no device","hint":"set `device`"}}\')\n'


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        ("sys.exit('No module named resnext_bench.ab.worker')", MissingRequirement, "too old"),
        ("sys.exit(\"(No module named 'resnext_bench.ab')\")", MissingRequirement, "too old"),
        ("sys.exit(\"(No module named 'resnext_bench')\")", MissingRequirement, "no toolkit"),
        ("import no_such_package", MissingRequirement, "has no no_such_package"),
        ("say('{\"version\":4}')", MissingRequirement, "another version of the toolkit"),
        ("print('last words', file=sys.stderr); sys.exit(3)", SessionFailed, "code 3): last words"),
        ("", SessionFailed, "exit code 0): no message"),
        (HELLO + "os.kill(os.getpid(), 9)", SessionFailed, "died (signal SIGKILL)"),
        (HELLO + "say('Loading the model ...')", SessionFailed, "something else than an answer"),
        (HELLO + "say('{}')", SessionFailed, "something else than an answer"),
        (HELLO + "time.sleep(60)", SessionFailed, "did not answer for 1 s"),
        (HELLO + "os.write(int(sys.argv[-1]), b'{'); time.sleep(60)", SessionFailed, "1 s"),
        (HELLO + "os.close(int(sys.argv[-1])); time.sleep(60)", SessionFailed, "connection"),
        (failure("MissingRequirement"), MissingRequirement, "arm B: no device; set `device`"),
        (failure("UnknownName"), UsageError, "arm B: no device"),
        (failure("Exception"), SessionFailed, "arm B: no device"),
        (failure("annotations"), SessionFailed, "arm B: no device"),
    ],
)
def test_another_environment_that_does_not_work_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    error: type[ResnextError],
    words: str,
) -> None:
    monkeypatch.setattr(process, "OPENING_S", 1.0)
    monkeypatch.setattr(child, "_ENDING_S", 0.3)
    with pytest.raises(error) as caught, Worker("arm B", interpreter(tmp_path, script)) as worker:
        worker.open(JOB)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert type(caught.value) is error


def test_what_a_library_prints_is_no_answer_and_no_error(tmp_path: Path) -> None:
    noise = "print('{\"version\":7}'); print('x' * 500_000, file=sys.stderr); sys.stdout.flush()\n"
    with Worker("arm B", interpreter(tmp_path, noise + HELLO + "sys.stdin.read()")) as worker:
        assert worker is not None


@pytest.mark.parametrize("mode", ["missing", "no program", "folder"])
def test_no_interpreter_is_a_wrong_input(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "python"
    if mode == "no program":
        path.write_text("text")
    elif mode == "folder":
        path.mkdir()
    with pytest.raises(BadInput, match=r"cannot run .*python: .*; name an interpreter"):
        Worker("arm B", path)


@pytest.mark.parametrize("toolkit", ["none", "old"])
def test_a_real_environment_without_the_worker(tmp_path: Path, toolkit: str) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    if toolkit == "old":
        (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
        (site / "resnext_bench").mkdir()
        (site / "resnext_bench" / "__init__.py").write_text("")
    words = {"none": "has no toolkit", "old": "too old"}[toolkit]
    with pytest.raises(MissingRequirement, match=words) as caught:
        Worker("arm B", tmp_path / "env" / "bin" / "python")
    assert "-m pip install -U 'resnext-toolkit[bench]'" in caught.value.hint


def test_a_worker_and_its_children_are_gone_at_the_end(tmp_path: Path) -> None:
    script = (
        "child = os.fork()\n"
        "if child: say('{\"version\":3}'); open('pid', 'w').write(str(child))\n"
        "time.sleep(60)"
    )
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        with Worker("arm B", interpreter(tmp_path, script)) as worker:
            while not (pid := (tmp_path / "pid")).exists() or not pid.read_text():
                time.sleep(0.01)
            pids = [worker._process.pid, int(pid.read_text())]
    finally:
        os.chdir(here)
    end = time.monotonic() + 5
    while any(running(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(running(pid) for pid in pids)
    worker.close()


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_logits_whose_fields_do_not_agree_are_refused(tmp_path: Path) -> None:
    for data in (
        '"dtype":"float32","shape":[2,2],"data":"AAAA"',
        '"dtype":"x","shape":[],"data":""',
    ):
        script = HELLO + f"say('{{{data}}}')\nsys.stdin.read()"
        with (
            Worker("arm B", interpreter(tmp_path, script)) as worker,
            pytest.raises(SessionFailed, match="something else"),
        ):
            worker.logits(0.1)


def test_logits_survive_the_journey() -> None:
    import ml_dtypes
    import numpy as np

    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        array = np.array([[1.5, np.nan], [np.inf, -0.0]], dtype)
        sent = Logits.model_validate_json(Logits.of(array).model_dump_json()).array()
        assert sent.dtype == array.dtype
        assert sent.tobytes() == array.tobytes()
