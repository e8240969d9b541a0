"""The C++ compiler, checked by compiling and running small programs. Imports no framework."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from resnext.storage import scratch_folder

_TIMEOUT_S = 120

#: Programs with the requirements of the code that PyTorch generates for a CPU, by what they need.
PROGRAMS: Mapping[str, str] = MappingProxyType(
    {
        "C++": (
            "#include <cmath>\n#include <vector>\nint main() { return std::vector<double>(1,"
            " std::sqrt(1)).empty(); }\n"
        ),
        "OpenMP": (
            "#include <omp.h>\nint main() {\n  int sum = 0;\n"
            "#pragma omp parallel for reduction(+ : sum)\n"
            "  for (int i = 0; i < 9; i++) sum += i;\n"
            "  return sum != 36 || omp_get_max_threads() < 1;\n}\n"
        ),
        "Python's headers": "#include <Python.h>\nint main() { return PY_MAJOR_VERSION != 3; }\n",
    }
)


def compiler() -> str:
    """The C++ compiler that PyTorch uses: ``CXX``, or the platform's."""
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")


def arguments_for(program: str) -> list[str]:
    """What the compiler is told for an entry of `PROGRAMS`."""
    if program == "OpenMP":
        return ["-Xclang", "-fopenmp", "-lomp"] if sys.platform == "darwin" else ["-fopenmp"]
    if program == "Python's headers":
        return [f"-I{sysconfig.get_path('include')}"]
    return []


def build(source: str, arguments: Sequence[str] = (), *, run: bool = False) -> str | None:
    """Compile and link a program.

    Args:
        source: C++.
        arguments: of the compiler, after the file's name.
        run: run it, too; it must end with 0.

    Returns:
        The error in one line, or None.
    """
    name = compiler()
    with scratch_folder() as folder:
        path, program = folder / "probe.cpp", folder / "probe"
        path.write_text(source)
        failure = _failure([name, str(path), "-o", str(program), *arguments], folder, name)
        if failure is None and run:
            failure = _failure([str(program)], folder, "the compiled program")
        return failure


def _failure(command: list[str], folder: Path, name: str) -> str | None:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it took more than two minutes"
        return f"{name or 'CXX is empty'}: {reason}"
    if done.returncode == 0:
        return None
    lines = [
        line.strip().replace(f"{folder}/", "") for line in done.stderr.splitlines() if line.strip()
    ]
    blamed = (line for line in lines if "error:" in line or "cannot find" in line)
    return next(blamed, lines[0] if lines else f"{name} ended with {done.returncode}")[:300]
