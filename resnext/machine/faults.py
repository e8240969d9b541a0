"""Errors that are the machine's fault, whoever raised them, and the line that mends each.

A library that lacks a shared library, memory or room on the disk says so in an error of another
kind, often about the file that it was reading.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from resnext.errors import MissingRequirement, ResnextError, first_line
from resnext.storage import cache_folder

from .shared_libraries import load_problem

#: What a full disk, a quota, a limit and a read-only disk answer.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_OWN = frozenset({"resnext", "resnext_export", "resnext_bench"})
#: Distributions whose name is not their module's.
_DISTRIBUTIONS = {
    "OpenSSL": "pyopenssl",
    "PIL": "pillow",
    "cpuinfo": "py-cpuinfo",
    "pynvml": "nvidia-ml-py",
    "sklearn": "scikit-learn",
}
_SMALLER = "use a smaller `batch` or `input_size`"
_ROOM = "make room, or write elsewhere"
#: Patterns in the words of libraries, what each means, and what to do.
_TEXTS = (
    (
        r"std::bad_alloc|bad allocation|[Ff]ailed to allocate memory|can't allocate memory",
        "out of memory",
        _SMALLER,
    ),
    (
        r"No space left on device|Disk quota exceeded|File too large|Read-only file system",
        "cannot write: {0}",
        _ROOM,
    ),
    (
        r"can't start new thread|pthread_create.*fail|Resource temporarily unavailable",
        "cannot start a thread: a limit of processes is reached",
        "raise it: ulimit -u 4096, or give the container more processes",
    ),
    (r"Too many open files", "too many open files", "raise the limit: ulimit -n 4096"),
    (
        r"No usable temporary directory found",
        "there is no temporary folder that can be written to",
        "set TMPDIR to a folder with room that can be written to",
    ),
    (  # Triton's own, which it lets through as they are
        r"(?:cuda_utils|__triton_launcher)\.c'.* returned non-zero exit status",
        "the C compiler failed on a launcher of Triton, which needs Python.h and libcuda.so.1",
        "apt-get install gcc python3-dev; what the compiler said stands above",
    ),
    (
        r"libcuda\.so cannot found",
        "Triton does not find libcuda.so.1",
        "run ldconfig, or set TRITON_LIBCUDA_PATH to its folder",
    ),
)


def environment_fault(
    error: BaseException, *, excepted: Collection[str] = ()
) -> MissingRequirement | None:
    """The fault of this machine that ``error`` comes from, if it does.

    Args:
        error: of any library; its causes are asked, too.
        excepted: codes of `load_problem` that say something about the file and not the machine.

    Returns:
        The error to raise instead; None if the machine is not at fault, as far as is known.
    """
    for each in _causes(error):
        if isinstance(each, MissingRequirement):
            return each
        if isinstance(each, ResnextError):  # judged where it was raised
            return None
        if fault := _fault(each, excepted):
            return fault
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """``error`` and what it comes from. An import that failed on the way to another error was often
    a question only, so it counts if it is a cause.
    """
    yield error
    while (cause := error.__cause__) is not None or not error.__suppress_context__:
        cause = cause or error.__context__
        if cause is None or (cause is not error.__cause__ and isinstance(cause, ImportError)):
            return
        yield cause
        error = cause


def _fault(error: BaseException, excepted: Collection[str]) -> MissingRequirement | None:
    if isinstance(error, MemoryError):
        return MissingRequirement("out of memory", hint=_SMALLER)
    if isinstance(error, ModuleNotFoundError):
        return _not_installed(error)
    text = str(error)
    known = load_problem(error)
    if known and known.code not in excepted:
        whose = f"{error.name}: " if isinstance(error, ImportError) and error.name else ""
        return MissingRequirement(whose + known.message, hint=known.hint)
    if isinstance(error, ImportError):
        if (error.name or "").partition(".")[0] in _OWN:
            return None  # a bug
        return MissingRequirement(
            f"a package does not load: {first_line(error)}",
            hint="install the tested versions again, in one call of pip",
        )
    if isinstance(error, OSError) and (fault := _of_system(error)):
        return fault
    for pattern, message, hint in _TEXTS:
        if found := re.search(pattern, text):
            return MissingRequirement(message.format(found[0]), hint=hint)
    return None


def _not_installed(error: ModuleNotFoundError) -> MissingRequirement | None:
    module = (error.name or "").partition(".")[0]
    if module in _OWN:
        return None
    package = _DISTRIBUTIONS.get(module, module)
    return MissingRequirement(
        f"the Python package {package or error} is not installed",
        hint=f"pip install {package or 'it'}",
    )


def _of_system(error: OSError) -> MissingRequirement | None:
    name = error.filename if isinstance(error.filename, str | bytes | os.PathLike) else None
    path = None if name is None else Path(os.fsdecode(name))
    if error.errno in FULL:
        of = f" {path}" if path else ""
        return MissingRequirement(f"cannot write{of}: {error.strerror}", hint=_ROOM)
    if path is None:
        return None
    for variable, title, folder in _folders():
        usable = folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
        if not usable and path.is_relative_to(folder):
            return MissingRequirement(
                f"cannot use the {title} {folder}: {error.strerror}",
                hint=f"set {variable} to a folder with room that can be written to",
            )
    return None


def _folders() -> Iterator[tuple[str, str, Path]]:
    yield "RESNEXT_CACHE_DIR", "cache folder", cache_folder()
    chosen = os.environ.get("TRITON_CACHE_DIR")
    yield "TRITON_CACHE_DIR", "folder of Triton's cache", Path(chosen or "~/.triton").expanduser()
    try:
        yield "TMPDIR", "temporary folder", Path(tempfile.gettempdir())
    except OSError:  # there is none; the error says so itself
        return
