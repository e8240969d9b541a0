"""Several processes on one cache, locks that dead processes left, and a clock that was set back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from resnext import storage
from resnext.storage import (
    locked,
    read_cached,
    remove_own,
    scratch_folder,
    work_folder,
    write_cached,
    write_whole,
)

#: Forks that start together and build the same artifacts in another order each.
TOGETHER = """
import json, os, sys
from importlib import import_module
for name in ("torch.onnx", "torch._dynamo", "onnxscript", "onnxruntime", "openvino"):
    import_module(name)
from resnext.weights.spec import load_weights
from resnext_export import ExportRequest, build_or_reuse

requests = [ExportRequest(), ExportRequest(precision="fp16"), ExportRequest(format="openvino")]
weights = load_weights("digits")
for number in range(int(sys.argv[1])):
    reading, writing = os.pipe()
    if os.fork() == 0:
        built = {}
        for index in range(3):
            request = requests[(number + index) % 3]
            stored = build_or_reuse(request, weights)
            name = f"{request.format} {request.precision}"
            built[name] = stored.artifact.manifest.file_sha256, stored.reused
        sys.stdout.write(json.dumps(built) + "\\n")
        sys.stdout.flush()
        os._exit(0)
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
"""


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", **more}


@pytest.mark.exhaustive
@pytest.mark.parametrize("count", [2, 8])
def test_processes_that_share_a_cache_build_each_artifact_once(count: int, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    done = subprocess.run(
        [sys.executable, "-c", TOGETHER, str(count)],
        capture_output=True,
        text=True,
        check=True,
        env=environment(RESNEXT_CACHE_DIR=str(tmp_path)),
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == count
    for name in lines[0]:
        digests, reused = zip(*(line[name] for line in lines), strict=True)
        assert len(set(digests)) == 1, name
        # The first export is what the others are made from, whoever needs it first.
        assert reused.count(False) <= 1, name
    entries = [path for path in tmp_path.glob("*/*") if path.is_dir()]
    assert len([path for path in entries if path.parent.name in ("onnx", "openvino")]) == 3
    assert [path for path in tmp_path.rglob("*") if ".partial-" in path.name] == []


HOLDS = """
import sys, time
from pathlib import Path
from resnext.storage import locked, scratch_folder, work_folder
with locked(Path(sys.argv[1]) / "it.lock"), scratch_folder() as scratch:
    with work_folder(Path(sys.argv[1]), ".file.partial-") as work:
        (work / "half").write_text("half")
        (scratch / "large").mkdir()
        (scratch / "large" / "file").write_text("large")
        print("held", flush=True)
        time.sleep(100)
"""


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which a process was killed that held a lock, a work and a scratch folder."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=environment(TMPDIR=str(tmp_path)),
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    before = sorted(tmp_path.iterdir())
    write_whole(tmp_path / "file", b"whole")
    with scratch_folder():
        pass
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "file"])  # it lives
    child.kill()
    child.communicate()
    return tmp_path


def test_a_lock_of_a_dead_process_is_free(killed: Path) -> None:
    assert (killed / "it.lock").exists()
    began = time.monotonic()
    with locked(killed / "it.lock"):
        assert time.monotonic() - began < 1


def test_folders_of_a_dead_process_are_removed_by_the_next_that_works_there(killed: Path) -> None:
    write_whole(killed / "file", b"new")
    with scratch_folder():
        pass
    assert {path.name for path in killed.iterdir()} == {"it.lock", "file"}


def test_whoever_takes_the_lock_of_a_folder_of_the_cache_cleans_it(killed: Path) -> None:
    (killed / "file").unlink()
    with locked(killed / "other.lock"):
        assert [path for path in killed.iterdir() if ".partial-" in path.name] == []


def test_a_folder_that_only_looks_like_a_scratch_folder_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "lock").write_text("somebody's")
    (tmp_path / "resnext-scratch-link").symlink_to("elsewhere")
    (tmp_path / "resnext-scratch-mine").mkdir()
    (tmp_path / "resnext-scratch-mine" / "thesis.txt").write_text("precious")
    with scratch_folder():
        pass
    assert (tmp_path / "elsewhere" / "lock").read_text() == "somebody's"
    assert (tmp_path / "resnext-scratch-mine" / "thesis.txt").read_text() == "precious"


def test_a_folder_that_is_swept_before_its_lock_is_held_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between making a folder and locking it, another process takes it for abandoned."""
    swept: list[Path] = []
    mkdir = Path.mkdir

    def sweeps(self: Path, *args: Any, **kwargs: Any) -> None:
        mkdir(self, *args, **kwargs)
        if not swept and ".partial-" in self.name:
            swept.append(self)
            storage.remove_left_behind(tmp_path, ".*")
            assert not self.exists()

    monkeypatch.setattr(Path, "mkdir", sweeps)
    write_whole(tmp_path / "file", b"whole")
    assert len(swept) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_interruption_while_a_folder_is_removed_leaves_it_to_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with (
        monkeypatch.context() as patch,
        pytest.raises(KeyboardInterrupt),
        work_folder(tmp_path, ".file.partial-") as folder,
    ):
        patch.setattr(storage, "_remove", interrupted)
    assert list(tmp_path.iterdir()) == [folder]
    remove_own()
    assert list(tmp_path.iterdir()) == []


def test_removing_work_of_a_thread_that_still_runs_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder appears between the look and the removal: seen as an interrupted export."""
    folder = tmp_path / ".work-1"
    folder.mkdir()
    monkeypatch.setattr(storage, "_own", {folder})
    monkeypatch.setattr(Path, "is_dir", lambda _: False)
    remove_own()
    assert folder.exists()  # the thread removes it


def test_what_was_made_before_the_clock_was_set_back_is_used(tmp_path: Path) -> None:
    """Nothing is decided by the time of a file."""
    path = tmp_path / "kind" / "name"
    write_cached(path, b"data")
    (tmp_path / "kind" / ".lock").touch()
    for each in tmp_path.rglob("*"):
        os.utime(each, (4e9, 4e9))  # in the year 2096
    with locked(tmp_path / "kind" / ".lock"):
        assert read_cached(path) == b"data"
    write_cached(path, b"newer")
    assert read_cached(path) == b"newer"


def test_no_code_asks_how_late_it_is_but_to_write_it_down() -> None:
    """Durations are taken on the monotonic clock, which nobody sets back."""
    root = Path(__file__).parents[2]
    asked = [
        f"{path.relative_to(root)}: {line.strip()}"
        for folder in ("resnext", "export", "benchmarks/resnext_bench")
        for path in sorted((root / folder).rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if any(word in line for word in ("time.time(", "time_ns(", "st_mtime", "datetime.now("))
        and "perf_counter" not in line
    ]
    assert [line.partition(":")[0] for line in asked] == [
        "resnext/artifact/foreign.py",
        "resnext/cli/junit.py",
        # whether pictures are others than they were
        "resnext/images/shards/folder.py",
        "resnext/images/shards/tar.py",
        "resnext/verify/verdict.py",
        "export/resnext_export/bisect/mend.py",
        "export/resnext_export/publish.py",
        "benchmarks/resnext_bench/ab/duel.py",
        "benchmarks/resnext_bench/crosscheck/run.py",
        "benchmarks/resnext_bench/explain/explanation.py",
        # whether a file is another one than it was
        "benchmarks/resnext_bench/history/index.py",
        "benchmarks/resnext_bench/history/index.py",
        "benchmarks/resnext_bench/limits/ceilings.py",
        "benchmarks/resnext_bench/run.py",
        "benchmarks/resnext_bench/tune/api.py",
    ], asked
