"""The interpreter, the system below it, and files that hide modules."""

from __future__ import annotations

import locale
import platform
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from .facts import Facts
from .observation import Observation, absent, ok, problem, warning
from .requirements import MODULES

#: Least C library of PyTorch's and ONNX Runtime's wheels (manylinux_2_28).
_LEAST_GLIBC = (2, 28)


def check_interpreter(_: Facts) -> Iterator[Observation]:
    """Python, and what the wheels are built for."""
    system, machine = platform.system(), platform.machine()
    python = f"{platform.python_implementation()} {platform.python_version()}"
    yield ok(f"{python}, {system} {platform.release()} {machine}, {sys.executable}")
    if platform.python_implementation() != "CPython" or sys.maxsize < 2**32:
        yield problem(
            "other-python",
            f"{python} is not 64-bit CPython, which the wheels are built for",
            "make an environment with CPython from python.org or your system",
        )
    if system != "Linux":
        yield warning(
            "other-system",
            f"{system} is not tested; the toolkit is developed on Linux",
            "use Linux, WSL 2 or a container if something fails",
        )


def check_libc(_: Facts, libc: tuple[str, str] | None = None) -> Iterator[Observation]:
    """The C library: wheels need a new enough glibc."""
    name, version = platform.libc_ver() if libc is None else libc
    least = ".".join(map(str, _LEAST_GLIBC))
    if sys.platform != "linux":
        yield absent("no-glibc", "no glibc on this system, and none needed")
    elif name != "glibc":
        yield problem(
            "no-glibc",
            f"the C library is not glibc but {name or 'musl'}, which the wheels do not run on",
            "use an image of Debian, Ubuntu or RHEL, not Alpine",
        )
    elif tuple(int(part) for part in version.split(".")[:2]) < _LEAST_GLIBC:
        yield problem(
            "old-glibc",
            f"glibc {version} is older than {least}, which the wheels need",
            "use a newer system or container image",
        )
    else:
        yield ok(f"glibc {version} (wheels need {least})")


def check_encoding(_: Facts, encodings: tuple[str, str] | None = None) -> Iterator[Observation]:
    """UTF-8 for names of files and for texts."""
    names, texts = encodings or (sys.getfilesystemencoding(), locale.getpreferredencoding(False))
    if {names.lower().replace("-", ""), texts.lower().replace("-", "")} == {"utf8"}:
        yield ok("UTF-8")
    else:
        yield warning(
            "not-utf8",
            f"names of files are {names} and texts {texts}, not UTF-8",
            "export LANG=C.UTF-8 PYTHONUTF8=1",
        )


def check_shadowing(facts: Facts, path: Sequence[str] | None = None) -> Iterator[Observation]:
    """Files in the current folder or on PYTHONPATH that hide a module."""
    entries = list(sys.path if path is None else path)
    hidden = [*_hidden_packages(facts, entries), *_hidden_standard(entries)]
    for module, file in hidden:
        yield problem(
            "shadowed-module",
            f"{file} is imported instead of the module {module}",
            f"rename it: mv {file} {file.with_name('my_' + file.name)}, or take its folder off"
            " PYTHONPATH",
        )
    if not hidden:
        yield ok("no file on the module path hides a module that is needed")


def _hidden_packages(facts: Facts, entries: list[str]) -> Iterator[tuple[str, Path]]:
    for each in facts.needed:
        distribution = facts.installed.get(each.name)
        module = MODULES.get(each.name, each.name.replace("-", "_"))
        spec = PathFinder.find_spec(module, entries)
        if distribution is None or spec is None or spec.origin is None:
            continue  # a folder without __init__.py hides nothing
        home = Path(str(distribution.locate_file(""))).resolve()
        if not Path(spec.origin).resolve().is_relative_to(home) and distribution.files:
            yield module, Path(spec.origin)


def _hidden_standard(entries: list[str]) -> Iterator[tuple[str, Path]]:
    standard = Path(platform.__file__).parent.resolve()
    for entry in entries:
        folder = Path(entry or ".")
        if not folder.is_dir():
            continue  # an archive
        if folder.resolve() == standard:
            return
        for file in sorted(folder.glob("*.py")):
            if file.stem in sys.stdlib_module_names:
                yield file.stem, file
