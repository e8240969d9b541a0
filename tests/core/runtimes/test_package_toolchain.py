"""Whether packages can be compiled is found out by compiling: around toolkits of a few lines and a
driver of one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import cpp_extension

from resnext.machine.cuda_driver import probe_driver
from resnext.runtimes.pt2 import toolchain as module
from resnext.runtimes.pt2.toolchain import cuda_toolkit, obstacle, toolchain

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
without_driver = pytest.mark.skipif(
    probe_driver().problem is None, reason="this machine has a CUDA driver"
)


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No toolkit, no driver, nothing asked yet; PyTorch says that it has a GPU."""
    for name in ("CXX", "CUDA_HOME", "CUDA_PATH", "LIBRARY_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "_CONVENTIONAL", tmp_path / "no-such")
    monkeypatch.setattr(module, "driver_library", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(tmp_path / "guessed"))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    obstacle.cache_clear()
    yield
    obstacle.cache_clear()


def toolkit(folder: Path, **headers: str) -> Path:
    """A toolkit of two headers; a text in ``headers`` takes the place of one, an empty one leaves
    it out.
    """
    (folder / "include").mkdir(parents=True)
    (folder / "lib64").mkdir()
    texts = {"cuda": 'extern "C" int cuInit(unsigned);\n', "cuda_runtime": "\n", **headers}
    for name, text in texts.items():
        if text:
            (folder / "include" / f"{name}.h").write_text(text)
    return folder


def nvcc(folder: Path, says: str) -> str:
    """A script that answers the dry run as nvcc does."""
    (folder / "bin").mkdir(parents=True)
    path = folder / "bin" / "nvcc"
    path.write_text(f'#!/bin/sh\ntest "$1" = --dryrun || exit 1\n{says}\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def libcuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The driver's library as it lies on a machine without development packages: under its
    version's name alone.
    """
    return planted_driver(tmp_path, monkeypatch)


def planted_driver(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    source, library = folder / "driver.c", folder / "driver" / "libcuda.so.580.65.06"
    source.write_text("int cuInit(unsigned flags) { return (int)flags; }\n")
    library.parent.mkdir()
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", source, "-o", library], check=True
    )
    monkeypatch.setattr(module, "driver_library", lambda: library)
    return library


# ---- the toolkit


def test_the_toolkit_is_the_first_with_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    (empty / "include").mkdir(parents=True)
    assert cuda_toolkit() is None
    monkeypatch.setattr(module, "_CONVENTIONAL", toolkit(tmp_path / "conventional"))
    assert cuda_toolkit() == tmp_path / "conventional"
    # The script lies in a folder with no toolkit above it, as on images that keep theirs elsewhere.
    elsewhere = toolkit(tmp_path / "elsewhere")
    (elsewhere / "bin").mkdir()
    script = nvcc(
        tmp_path / "script", f"echo '#$ _SPACE_= ' >&2; echo '#$ TOP={elsewhere}/bin/..' >&2"
    )
    monkeypatch.setattr(shutil, "which", lambda name: script if name == "nvcc" else None)
    assert cuda_toolkit() == elsewhere
    monkeypatch.setenv("CUDA_PATH", str(toolkit(tmp_path / "path")))
    assert cuda_toolkit() == tmp_path / "path"
    monkeypatch.setenv("CUDA_HOME", str(empty))
    assert cuda_toolkit() == tmp_path / "path"
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "home")))
    assert cuda_toolkit() == tmp_path / "home"


@pytest.mark.parametrize("says", ["exit 1", "echo nothing of use >&2"])
def test_an_nvcc_that_names_no_toolkit_is_asked_for_the_folder_above_it(
    says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = nvcc(tmp_path / "usr", says)
    monkeypatch.setattr(shutil, "which", lambda _: script)
    assert cuda_toolkit() is None
    toolkit(tmp_path / "usr")
    assert cuda_toolkit() == tmp_path / "usr"


def test_an_nvcc_that_cannot_be_run_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: str(tmp_path / "gone" / "nvcc"))
    monkeypatch.setattr(module, "_CONVENTIONAL", toolkit(tmp_path / "conventional"))
    assert cuda_toolkit() == tmp_path / "conventional"


# ---- what keeps packages from being compiled


@needs_compiler
def test_nothing_is_in_the_way_where_a_few_lines_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert obstacle("cpu") is None
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "home")))
    planted_driver(tmp_path, monkeypatch)
    assert obstacle("cuda") is None
    assert obstacle("auto") is None


@without_driver
@needs_compiler
@pytest.mark.parametrize(
    ("headers", "driver", "said"),
    [
        (None, True, "none with include/cuda.h was found by CUDA_HOME, CUDA_PATH, nvcc or in"),
        ({"cuda": ""}, True, "none with include/cuda.h was found"),
        ({}, False, "neither libcuda.so.1 nor libcuda.so was found; install the NVIDIA driver"),
        ({"cuda_runtime": ""}, True, "fatal error: cuda_runtime.h: No such file"),
        ({"cuda": "#error too old\n"}, True, "error too old"),
    ],
)
def test_what_is_missing_for_cuda_is_one_line_with_what_to_do(
    headers: dict[str, str] | None,
    driver: bool,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if headers is not None:
        monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "home", **headers)))
    if driver:
        planted_driver(tmp_path, monkeypatch)
    problem = obstacle("cuda")
    assert problem is not None
    assert said in str(problem)
    assert problem.hint.endswith("or compile for the processor: `device` cpu")
    assert len(str(problem).splitlines()) == 1
    assert obstacle("auto") == problem
    assert obstacle("cpu") is None


@pytest.mark.parametrize("device", ["cpu", "cuda", "auto"])
@pytest.mark.parametrize("compiler", ["/nowhere/g++", "", "false"])
def test_a_compiler_that_does_not_compile_is_in_the_way_of_every_device(
    compiler: str, device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler)
    problem = obstacle(device)
    assert problem is not None
    assert "no working C++ compiler was found" in problem.message
    assert "apt-get install g++ (or set CXX)" in problem.hint
    assert len(str(problem).splitlines()) == 1


def test_a_gpu_that_pytorch_cannot_use_is_named_before_anything_is_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(module, "_build", None)
    assert "cannot use a CUDA device here; compile for the processor: `device` cpu" in str(
        obstacle("cuda")
    )


def test_a_machine_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(module, "_build", lambda kind, _: asked.append(kind))
    assert [obstacle("cpu"), obstacle("cpu")] == [None, None]
    assert asked == ["cpu"]


# ---- while it compiles


@needs_compiler
def test_the_loaded_driver_is_linked_by_its_own_name(libcuda: Path, tmp_path: Path) -> None:
    source, program = tmp_path / "a.cpp", tmp_path / "a.out"
    source.write_text('extern "C" int cuInit(unsigned);\nint main() { return cuInit(0); }\n')
    build = ["g++", str(source), "-o", str(program), "-lcuda"]
    toolkit(module._CONVENTIONAL)
    with toolchain("cuda"):
        subprocess.run(build, check=True)
    assert b"\0libcuda.so.1\0" in program.read_bytes()
    assert (
        subprocess.run([program], env={"LD_LIBRARY_PATH": str(tmp_path)}, check=False).returncode
        != 0
    )
    (tmp_path / "libcuda.so.1").symlink_to(libcuda)
    assert (
        subprocess.run([program], env={"LD_LIBRARY_PATH": str(tmp_path)}, check=False).returncode
        == 0
    )


@pytest.mark.usefixtures("libcuda")
@pytest.mark.parametrize("given", [{}, {"CUDA_HOME": "/mine", "LIBRARY_PATH": "/mine/lib"}])
def test_what_is_set_while_compiling_is_undone(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    before, guessed = dict(os.environ), cpp_extension.CUDA_HOME
    chosen = str(toolkit(module._CONVENTIONAL))
    with contextlib.suppress(RuntimeError), toolchain("cuda"):
        assert (os.environ["CUDA_HOME"], cpp_extension.CUDA_HOME) == (chosen, chosen)
        assert f"{chosen}/include" in cpp_extension.include_paths("cuda")
        *first, last = os.environ["LIBRARY_PATH"].split(os.pathsep)
        assert first == [value for name, value in given.items() if name == "LIBRARY_PATH"]
        assert (Path(last) / "libcuda.so").is_file()
        raise RuntimeError("the compiler failed")
    assert dict(os.environ) == before
    assert guessed == cpp_extension.CUDA_HOME
    assert not Path(last).exists()
    with toolchain("cpu"):
        assert dict(os.environ) == before


@needs_compiler
def test_the_driver_s_file_is_found_by_what_is_loaded(libcuda: Path, tmp_path: Path) -> None:
    (libcuda.parent / "libcuda.so.1").symlink_to(libcuda.name)
    script = "from resnext.runtimes.pt2.toolchain import driver_library; print(driver_library())"
    found = []
    for folder in (libcuda.parent, tmp_path):
        environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
        command = [sys.executable, "-c", script]
        found.append(
            subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True
            ).stdout.strip()
        )
    assert found[0] == str(libcuda)
    assert found[1] != str(libcuda)  # the machine's own, or none


@needs_compiler
def test_the_toolkit_of_this_machine_s_nvcc_compiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    script = shutil.which("nvcc")
    if script is None:
        pytest.skip("needs nvcc")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(module, "_CONVENTIONAL", tmp_path / "no-such")
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    obstacle.cache_clear()
    planted_driver(tmp_path, monkeypatch)
    assert obstacle("cuda") is None
