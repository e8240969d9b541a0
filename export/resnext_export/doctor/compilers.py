"""The C++ compiler, OpenMP and Python's headers, by compiling and running small programs."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator

from resnext.machine.compiler import PROGRAMS, arguments_for, build, compiler

from .facts import Facts
from .observation import Observation, absent, ok, problem

_MENDED = {
    "C++": "apt-get install g++, or set CXX to another compiler",
    "OpenMP": "apt-get install g++ libgomp1, or set CXX=g++",
    "Python's headers": (
        f"apt-get install python{sys.version_info[0]}.{sys.version_info[1]}-dev (conda has them)"
    ),
}


def check_compiler(_: Facts) -> Iterator[Observation]:
    """What torch.compile and .pt2 packages are compiled with."""
    name = compiler()
    if not shutil.which(name):
        yield absent(
            "no-compiler",
            f"no C++ compiler ({name or 'CXX is empty'}); torch-compile and pt2 need one",
            _MENDED["C++"],
        )
        return
    for program, source in PROGRAMS.items():
        if failure := build(source, arguments_for(program), run=True):
            yield problem(
                "broken-compiler",
                f"{name} does not compile or run {program}: {failure}",
                _MENDED[program],
            )
            return
    yield ok(f"{shutil.which(name)} compiles and runs {', '.join(PROGRAMS)}")
