"""Errors of libraries that are the machine's fault, and those that only look like it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from subprocess import CalledProcessError

import pytest

from resnext.errors import BadArtifact, MissingRequirement
from resnext.machine.faults import environment_fault


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    error.__cause__ = cause
    return error


def system(number: int, name: Path | str | None = None) -> OSError:
    if name is None:
        return OSError(number, os.strerror(number))
    return OSError(number, os.strerror(number), str(name))


LOADER = "libcublas.so.12: cannot open shared object file: No such file or directory"


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (ImportError(LOADER, name="torch._C"), "torch._C: the library libcublas.so.12", "pip inst"),
        (OSError(LOADER), "the library libcublas.so.12 is not found", "nvidia-cublas-cu12"),
        (RuntimeError(f"Failed to load library libx.so with error: {LOADER}"), "libcublas", "pip"),
        (
            ImportError("cannot import name 'a' from 'b'"),
            "a package does not load: cannot",
            "again",
        ),
        (
            ModuleNotFoundError("No module named 'PIL'", name="PIL"),
            "pillow is not",
            "pip install p",
        ),
        (MemoryError(), "out of memory", "smaller `batch`"),
        (RuntimeError("[ONNXRuntimeError] : 6 : std::bad_alloc"), "out of memory", "smaller"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "out of", "smaller"),
        (RuntimeError("fwrite: No space left on device"), "cannot write: No space", "make room"),
        (RuntimeError("can't start new thread"), "a limit of processes", "ulimit -u"),
        (system(errno.EMFILE), "too many open files", "ulimit -n"),
        (system(errno.ENOSPC, "/x/y"), "cannot write /x/y: No space left", "make room"),
        (system(errno.EROFS), "cannot write: Read-only file system", "make room"),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
            "no temporary folder",
            "set TMPDIR",
        ),
        (CalledProcessError(1, ["gcc", "/tmp/a/cuda_utils.c", "-O3"]), "Python.h", "python3-dev"),
        (CalledProcessError(1, ["cc", "/tmp/a/__triton_launcher.c"]), "Python.h", "python3-dev"),
        (AssertionError("libcuda.so cannot found!\nPlease"), "libcuda.so.1", "TRITON_LIBCUDA"),
        (raised(ValueError("export failed"), MemoryError()), "out of memory", "smaller"),
        (
            raised(ValueError("export failed"), MissingRequirement("no GPU", hint="buy")),
            "no GPU",
            "",
        ),
    ],
)
def test_a_fault_of_the_machine_is_named_with_the_line_that_mends_it(
    error: BaseException, message: str, hint: str
) -> None:
    fault = environment_fault(error)
    assert fault is not None
    assert fault.exit_code == 3
    assert message in fault.message
    assert hint in fault.hint


@pytest.mark.parametrize(
    "error",
    [
        ValueError("not an ONNX file"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/no/such/file"),
        PermissionError(errno.EACCES, "Permission denied", "/root/model.onnx"),
        CalledProcessError(1, ["gcc", "/tmp/a/other.c"]),
        ImportError("cannot import name 'a'", name="resnext.errors"),
        ModuleNotFoundError("No module named 'resnext.x'", name="resnext.x"),
        raised(ValueError("x"), raised(BadArtifact("damaged"), MemoryError())),
    ],
)
def test_a_fault_of_the_file_or_of_the_toolkit_is_not_the_machine_s(error: BaseException) -> None:
    assert environment_fault(error) is None


def test_an_import_that_was_only_tried_is_no_cause_but_a_disk_is() -> None:
    for tried, expected in ((ImportError("no"), None), (system(errno.ENOSPC), "cannot write")):
        error = ValueError("other")
        error.__context__ = tried
        fault = environment_fault(error)
        assert (fault and fault.message.startswith(str(expected))) == (expected and True)


@pytest.mark.parametrize(
    ("variable", "number"), [("TMPDIR", 0), ("RESNEXT_CACHE_DIR", 1), ("TRITON_CACHE_DIR", 2)]
)
def test_a_folder_that_cannot_be_used_names_its_variable(
    variable: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    folders = [tmp_path / "fine"] * 3
    (tmp_path / "fine").mkdir()
    folders[number] = tmp_path / "file"
    monkeypatch.setattr("tempfile.tempdir", str(folders[0]))
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(folders[1]))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(folders[2]))
    fault = environment_fault(system(errno.ENOTDIR, tmp_path / "file" / "torchinductor_me"))
    assert fault is not None
    assert fault.hint.startswith(f"set {variable} to a folder")
    # A user's file that is not there, in a folder that is fine.
    assert environment_fault(system(errno.ENOENT, tmp_path / "fine" / "model.pth")) is None


def test_a_home_that_cannot_be_written_names_triton_s_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    fault = environment_fault(system(errno.EACCES, tmp_path / "none" / ".triton"))
    assert fault is not None
    assert fault.hint.startswith("set TRITON_CACHE_DIR to a folder")


def test_what_says_something_about_a_package_can_be_excepted() -> None:
    error = RuntimeError("/x/model.so: undefined symbol: aoti_x")
    assert environment_fault(error) is not None
    assert environment_fault(error, excepted=["other-build"]) is None
