"""The toolchain for .pt2 packages: a C++ compiler, and for CUDA the toolkit's headers and the
driver's library.

It is checked by compiling a small program. That a variable is set or a compiler exists says nothing
about the headers, and Inductor would report them missing only after half a minute of work.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

from resnext.findings import Finding
from resnext.machine.compiler import PROGRAMS, build
from resnext.runtimes.pytorch.release import too_old
from resnext.storage import scratch_folder

#: Small programs with the same requirements as Inductor's code for each device.
_PROGRAMS: Mapping[str, str] = {
    "cpu": PROGRAMS["C++"],
    "cuda": "#include <cuda.h>\n#include <cuda_runtime.h>\nint main() { return cuInit(0); }\n",
}
_CONVENTIONAL = Path("/usr/local/cuda")
_ON_CPU = "compile for the processor: `device` cpu"


@cache
def obstacle(device: Literal["auto", "cpu", "cuda"]) -> Finding | None:
    """Why .pt2 packages cannot be compiled here for ``device``; cached, and imports PyTorch.

    Args:
        device: what to compile for; ``auto`` is CUDA if PyTorch can use a CUDA device.

    Returns:
        What is missing, and what to do; None if a small program could be compiled and linked like
        Inductor's code.
    """
    import torch

    if problem := too_old():
        return problem
    if device == "auto":
        return obstacle("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        return Finding(
            "no-torch-cuda",
            f"PyTorch {torch.__version__} cannot use a CUDA device here",
            _ON_CPU,
        )
    if failure := _build("cpu", []):
        return Finding(
            "no-compiler",
            f"a .pt2 package is compiled, and no working C++ compiler was found ({failure})",
            "apt-get install g++ (or set CXX), or use `format` onnx",
        )
    return _cuda_obstacle() if device == "cuda" else None


def _cuda_obstacle() -> Finding | None:
    toolkit = cuda_toolkit()
    if toolkit is None:
        return Finding(
            "no-cuda-toolkit",
            "compiling a .pt2 package for CUDA needs the CUDA toolkit, and none with"
            f" include/cuda.h was found by CUDA_HOME, CUDA_PATH, nvcc or in {_CONVENTIONAL}",
            f"install the toolkit, set CUDA_HOME to it, or {_ON_CPU}",
        )
    with toolchain("cuda"):
        from torch.utils import cpp_extension

        headers = [f"-I{path}" for path in cpp_extension.include_paths("cuda")]
        libraries = [f"-L{path}" for path in cpp_extension.library_paths("cuda")]
        failure = _build("cuda", [*headers, *libraries, "-lcuda"])
    if failure is None:
        return None
    if "-lcuda" in failure:
        return Finding(
            "no-cuda-library",
            "compiling a .pt2 package for CUDA needs the driver's library, and neither"
            " libcuda.so.1 nor libcuda.so was found",
            f"install the NVIDIA driver, add its folder to LIBRARY_PATH, or {_ON_CPU}",
        )
    return Finding(
        "broken-cuda-toolkit",
        f"three lines for CUDA could not be compiled with the toolkit in {toolkit} ({failure})",
        f"set CUDA_HOME to a whole toolkit, or {_ON_CPU}",
    )


def cuda_toolkit() -> Path | None:
    """The CUDA toolkit to compile with: the first usual location with ``include/cuda.h``.

    PyTorch uses the folder above nvcc's without looking into it. If nvcc is a script that calls
    another one, there is no toolkit in that folder.
    """
    for folder in _toolkits():
        if (folder / "include" / "cuda.h").is_file():
            return folder
    return None


def _toolkits() -> Iterator[Path]:
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if folder := os.environ.get(name):
            yield Path(folder)
    if nvcc := shutil.which("nvcc"):
        try:
            done = subprocess.run(
                [nvcc, "--dryrun", "any.cu"],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=60,
                check=False,
            )
        except (OSError, subprocess.SubprocessError):
            pass
        else:
            if top := re.search(r"^#\$ TOP=(.+)$", done.stderr, re.MULTILINE):
                yield Path(top[1].strip()).resolve()
        # PyTorch's guess, which is right for Debian's packages, whose toolkit is in /usr
        yield Path(nvcc).parent.parent
    yield _CONVENTIONAL


@contextmanager
def toolchain(device: Literal["cpu", "cuda"]) -> Iterator[None]:
    """Let Inductor find the toolchain for ``device`` inside the block; restores the environment.

    For CUDA: the toolkit with the headers, and the loaded driver's library under the name that
    linkers look for, which otherwise only development packages provide.
    """
    if device == "cpu" or (toolkit := cuda_toolkit()) is None:
        yield
        return
    from torch.utils import cpp_extension

    before = cpp_extension.CUDA_HOME
    variables = {name: os.environ.get(name) for name in ("CUDA_HOME", "LIBRARY_PATH")}
    with scratch_folder() as folder:
        try:
            cpp_extension.CUDA_HOME = os.environ["CUDA_HOME"] = str(toolkit)
            if library := driver_library():
                (folder / "libcuda.so").symlink_to(library)
                # Last, so that the user's folders come first.
                os.environ["LIBRARY_PATH"] = os.pathsep.join(
                    filter(None, (variables["LIBRARY_PATH"], str(folder)))
                )
            yield
        finally:
            cpp_extension.CUDA_HOME = before
            for name, value in variables.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def driver_library() -> Path | None:
    """The file of the ``libcuda.so.1`` that this process loads; None if it cannot load it."""
    try:
        ctypes.CDLL("libcuda.so.1")
        mapped = (
            Path("/proc/self/maps")
            .read_text(encoding="utf-8", errors="surrogateescape")
            .splitlines()
        )
    except OSError:
        return None
    # Five columns and the path; the file behind libcuda.so.1 is named after the driver's version.
    paths = (Path(line.split(maxsplit=5)[5]) for line in mapped if "/libcuda.so" in line)
    return next((path for path in paths if path.name.startswith("libcuda.so")), None)


def _build(kind: Literal["cpu", "cuda"], arguments: list[str]) -> str | None:
    """Compile and link a small program with Inductor's compiler; returns the error, or None."""
    return build(_PROGRAMS[kind], arguments)
