"""A disk that is full, over quota or read-only: one line that says what to do, and nothing
half-written.

The disks are mounted in a namespace of their own; where that is not allowed, the tests are skipped.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from resnext.artifact.files import staging
from resnext.errors import MissingRequirement
from resnext.storage import cache_folder, scratch_folder, write_cached

PREAMBLE = """
import json, os, subprocess, sys, tempfile
from pathlib import Path
disk = Path(sys.argv[1])
found = {}

def remount(option):
    subprocess.run(["mount", "-o", f"remount,{option}", str(disk)], check=True)

def tried(what):
    from resnext.errors import MissingRequirement
    try:
        return what()
    except MissingRequirement as exc:
        return str(exc)

def files():
    return sorted(str(path.relative_to(disk)) for path in disk.rglob("*"))
"""


def on_a_disk_of_its_own(script: str, folder: Path) -> Any:
    """What ``script`` found: it can ``remount`` the small disk ``disk``."""
    namespace = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"])]
    mount = 'mount -t tmpfs -o size=10m tmpfs "$0"'
    try:
        allowed = subprocess.run(
            [*namespace, "sh", "-c", mount, str(folder)], capture_output=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("no command to mount a disk of its own: unshare")
    if allowed.returncode:
        pytest.skip("mounting a disk of its own is not allowed here")
    code = f"{PREAMBLE}{script}\nprint(json.dumps(found))\n"
    done = subprocess.run(
        [
            *(*namespace, "sh", "-c", f'{mount} && exec "$@"', str(folder)),
            *(sys.executable, "-c", code, str(folder)),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_an_artifact_that_does_not_fit_leaves_the_old_one_and_no_trace(tmp_path: Path) -> None:
    script = """
from resnext.artifact.files import staging
def write(size):
    with staging(disk / "out", force=True) as folder:
        (folder / "model.onnx").write_bytes(bytes(size))
        (folder / "manifest.json").write_text(
            '{"format_version": 1, "file": "model.onnx", "file_sha256": ""}'
        )
    return "written"
found["whole"] = tried(lambda: write(1000))
remount("size=64k")
found["full"] = tried(lambda: write(100_000))
found["size"] = (disk / "out" / "model.onnx").stat().st_size
found["files"] = files()
remount("size=10m")
found["again"] = tried(lambda: write(100_000))
remount("ro")
found["read-only"] = tried(lambda: write(100_000))
"""
    found = on_a_disk_of_its_own(script, tmp_path)
    full = f"the disk has no room for {tmp_path}/out (No space left on device); free some space, or"
    assert found.pop("full").startswith(full)
    said = f"cannot write to {tmp_path}/out: Read-only file system; choose another `output`"
    assert found.pop("read-only") == said
    assert found == {
        "whole": "written",
        "size": 1000,
        "files": ["out", "out/manifest.json", "out/model.onnx"],
        "again": "written",
    }


def test_the_cache_is_usable_once_there_is_room_again(tmp_path: Path) -> None:
    script = """
from resnext.storage import locked, read_cached, write_cached
def write(name):
    with locked(disk / "kind" / ".lock"):
        try:
            write_cached(disk / "kind" / name, bytes(50_000))
        except OSError as exc:
            return exc.strerror
    return "written"
remount("size=80k")
found["names"] = [tried(lambda: write(name)) for name in ("one", "two")]
found["files"] = files()
remount("size=10m")
found["again"] = tried(lambda: write("two"))
found["read"] = [len(read_cached(disk / "kind" / name)) for name in ("one", "two")]
remount("ro")
found["read-only"] = tried(lambda: write("one"))
found["read still"] = len(read_cached(disk / "kind" / "one"))
"""
    found = on_a_disk_of_its_own(script, tmp_path)
    assert found.pop("read-only") == (
        f"cannot use the cache folder {tmp_path}/kind: Read-only file system;"
        " set RESNEXT_CACHE_DIR to one that can be written to"
    )
    assert found == {
        "names": ["written", "No space left on device"],
        "files": ["kind", "kind/.lock", "kind/one"],
        "again": "written",
        "read": [50_000, 50_000],
        "read still": 50_000,
    }


@pytest.mark.exhaustive
def test_an_export_and_a_benchmark_at_any_size_of_disk(tmp_path: Path) -> None:
    """The cache, the output and the temporary folder fill up at one write after the other."""
    script = """
from resnext.weights.spec import load_weights
from resnext_bench import benchmark
from resnext_export import export
os.environ.update(RESNEXT_CACHE_DIR=str(disk / "cache"), TMPDIR=str(disk / "tmp"))
weights = load_weights("digits")
def work():
    (disk / "tmp").mkdir(exist_ok=True)
    tempfile.tempdir = None
    run = benchmark(["ort-cpu"], weights=weights, batch=2, precision="int8", warmup=0,
                    calibration_images=8, duration=0.001, rounds=1, accuracy="digits",
                    accuracy_images=20)
    if run.rows[0].artifact_sha256 is None:
        return run.rows[0].reasons[0]
    made = export(weights, disk / "out", force=True, format="openvino")
    return [run.rows[0].artifact_sha256, made.manifest.file_sha256]
sizes = [20, 60, 150, 300, 500, 700, 900, 1100, 1300, 1500, 1700, 2500, 10_000]
found["outcomes"] = []
for size in sizes:
    remount(f"size={size}k")
    found["outcomes"].append(tried(work))
    found.setdefault("left", []).extend(
        name for name in files() if ".partial-" in name or name.startswith("tmp/resnext")
    )
"""
    found = on_a_disk_of_its_own(script, tmp_path)
    *failed, last = found["outcomes"]
    assert found["left"] == []
    assert isinstance(last, list), last
    lines = [outcome for outcome in failed if outcome != last]
    assert len(lines) > 5
    for line in lines:
        assert isinstance(line, str)
        assert "\n" not in line
        assert any(word in line for word in ("space", "room", "TMPDIR", "cannot")), line


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("cached", [False, True])
def test_a_quota_is_as_clear_as_a_full_disk(
    number: int, cached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "cache"))
    directory = (cache_folder() if cached else tmp_path) / "out"

    def over(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", over)
    remedy = "set RESNEXT_CACHE_DIR" if cached else "choose another `output`"
    with (
        pytest.raises(MissingRequirement, match=f"no room for .* free some space, or {remedy}"),
        staging(directory) as folder,
    ):
        (folder / "model.onnx").write_bytes(b"data")
    with pytest.raises(OSError, match=os.strerror(number)):
        write_cached(directory.parent / "file", b"data")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_temporary_folder_that_cannot_be_made_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    with (
        pytest.raises(MissingRequirement, match=r"cannot make a temporary folder.*set TMPDIR"),
        scratch_folder(),
    ):
        pass
