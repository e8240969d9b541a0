"""The index: what is kept of each file in a folder, as an SQLite file in the cache folder.

The run files are the truth, and the index can be deleted at any time. It is read into memory,
brought up to date and replaced as a whole: processes at once do not wait for each other, the last
one's index stays, and a killed one leaves the index that was there.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from resnext.errors import BadInput
from resnext.readers.files import exists, open_file
from resnext.storage import cache_folder, partial_prefix, work_folder
from resnext.version import __version__

from .entries import Entry, read_entry, sha256_of

#: Of the tables; an index of any other is made again.
VERSION = 2
TABLES = """
CREATE TABLE files (name TEXT PRIMARY KEY, mtime_ns INTEGER, size INTEGER, sha256 TEXT, kind TEXT,
    problem TEXT);
CREATE TABLE runs (name TEXT PRIMARY KEY, created TEXT, processor TEXT, cores TEXT, gpus TEXT,
    model TEXT, weights TEXT, packages TEXT);
CREATE TABLE times (name TEXT, backend TEXT, variant TEXT, batch INTEGER, threads INTEGER,
    streams INTEGER, precision TEXT, boundary TEXT, cache TEXT, artifact TEXT, median_ns REAL,
    low_ns REAL, high_ns REAL, problem TEXT);
CREATE TABLE made (toolkit TEXT, sha256 TEXT);
"""
_CONTENT = ("files", "runs", "times")
#: Largest index that is read, bytes.
_MOST = 1 << 30
#: A file that was changed less than this before it was read may change again unseen.
_SETTLED_NS = 2_000_000_000


def index_path(folder: Path) -> Path:
    """Path of the index of ``folder``.

    Raises:
        BadInput: as `resnext.storage.cache_folder`.
    """
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()
    return cache_folder() / "history" / f"{digest[:16]}.sqlite"


@contextmanager
def indexed(folder: Path, note: Callable[[str], None]) -> Iterator[sqlite3.Connection]:
    """The index of ``folder``, up to date.

    Args:
        folder: of run files, also in folders inside it.
        note: called with one line if the index had to be made again or cannot be kept.

    Raises:
        BadInput: ``folder`` cannot be read.
    """
    path = index_path(folder)
    with closing(_opened(path, note)) as index:
        if _refresh(index, folder, note):
            _store(index, path, note)
        yield index


def kept_indexes(note: Callable[[str], None]) -> Iterator[sqlite3.Connection]:
    """Every index in the cache, as it was when its folder was last read; each is closed when the
    next one is asked for.

    Args:
        note: called with one line for each that cannot be used.

    Raises:
        BadInput: as `resnext.storage.cache_folder`.
    """
    for path in sorted((cache_folder() / "history").glob("*.sqlite")):
        with closing(_opened(path, note)) as index:
            yield index


def _opened(path: Path, note: Callable[[str], None]) -> sqlite3.Connection:
    """A copy of the index at ``path`` in memory; an empty one if it cannot be used."""
    if not exists(path):
        return _empty()
    index = sqlite3.connect(":memory:")
    try:
        open_file(path, _MOST).close()
        address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(address, uri=True)) as stored:
            stored.backup(index)
        _check(index)
    except (BadInput, sqlite3.Error, ValueError, OverflowError) as exc:
        index.close()
        note(f"the index {path} is made again from the files: {str(exc).splitlines()[0]}")
        return _empty()
    return index


def _empty() -> sqlite3.Connection:
    index = sqlite3.connect(":memory:")
    index.executescript(TABLES)
    index.execute(f"PRAGMA user_version = {VERSION}")
    return index


def _check(index: sqlite3.Connection) -> None:
    """Check that this toolkit made ``index``, and that nothing in it has changed since.

    Raises:
        ValueError: not so.
        sqlite3.Error: SQLite cannot read it.
    """
    ((version,),) = index.execute("PRAGMA user_version")
    if version != VERSION:
        raise ValueError(f"its version is {version}, not {VERSION}")
    with closing(_empty()) as empty:
        if _tables(index) != _tables(empty):
            raise ValueError("it has other tables")
    made = index.execute("SELECT toolkit, sha256 FROM made").fetchall()
    if len(made) != 1 or made[0][1] != _digest(index):
        raise ValueError("it is damaged")
    if made[0][0] != __version__:
        raise ValueError(f"toolkit {made[0][0]} made it")


def _tables(index: sqlite3.Connection) -> list[tuple[str, ...]]:
    return index.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()


def _digest(index: sqlite3.Connection) -> str:
    digest = hashlib.sha256()
    for table in _CONTENT:
        for row in index.execute(f"SELECT * FROM {table} ORDER BY rowid"):
            digest.update(f"{row!r}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _store(index: sqlite3.Connection, path: Path, note: Callable[[str], None]) -> None:
    with index:
        index.execute("DELETE FROM made")
        index.execute("INSERT INTO made VALUES (?, ?)", (__version__, _digest(index)))
    try:
        with work_folder(path.parent, partial_prefix(path)) as folder:
            with closing(sqlite3.connect(folder / path.name)) as file:
                index.backup(file)
            (folder / path.name).replace(path)
    except (OSError, sqlite3.Error) as exc:
        reason = getattr(exc, "strerror", None) or exc
        note(f"the index {path} cannot be kept: {reason}")


def _refresh(index: sqlite3.Connection, folder: Path, note: Callable[[str], None]) -> bool:
    """Read new and changed files, and drop those that are gone.

    Returns:
        Whether anything changed.
    """
    stored = {
        name: (mtime_ns, size, sha256)
        for name, mtime_ns, size, sha256 in index.execute(
            "SELECT name, mtime_ns, size, sha256 FROM files"
        )
    }
    before = index.total_changes
    names = list(_names(folder, note))
    with index:
        for name in stored.keys() - set(names):
            _drop(index, name)
        for name in names:
            mtime_ns, size = _facts(folder / name)
            known = stored.get(name)
            if known is not None and mtime_ns >= 0 and known[:2] == (mtime_ns, size):
                continue
            try:
                sha256 = sha256_of(folder / name)
            except BadInput:
                sha256, mtime_ns = "", -1  # the reader says why, and again next time
            if known is not None and sha256 and known[2] == sha256:
                facts = (mtime_ns, size, name)
                index.execute("UPDATE files SET mtime_ns = ?, size = ? WHERE name = ?", facts)
                continue
            _drop(index, name)
            _add(index, name, (mtime_ns, size, sha256), read_entry(folder / name))
    return index.total_changes != before


def _facts(path: Path) -> tuple[int, int]:
    """Time of the last change and size of a file; the time is -1 if it may change again unseen."""
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    settled = time.time_ns() - status.st_mtime_ns > _SETTLED_NS
    return status.st_mtime_ns if settled else -1, status.st_size


def _names(folder: Path, note: Callable[[str], None]) -> Iterator[str]:
    """Paths of the JSON files in ``folder``, relative to it; hidden ones and links to folders are
    left out.

    Raises:
        BadInput: the folder cannot be read.
    """

    def failed(exc: OSError) -> None:
        if Path(exc.filename) == folder:
            raise BadInput(f"cannot read {folder}: {exc.strerror}") from exc
        note(f"cannot read {exc.filename}: {exc.strerror}")

    for parent, folders, files in os.walk(folder, onerror=failed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in sorted(files):
            if not file.endswith(".json") or file.startswith("."):
                continue
            name = (Path(parent) / file).relative_to(folder).as_posix()
            try:
                name.encode()
            except UnicodeEncodeError:
                note(f"{name!r} is left out: its name is not UTF-8")
            else:
                yield name


def _drop(index: sqlite3.Connection, name: str) -> None:
    for table in _CONTENT:
        index.execute(f"DELETE FROM {table} WHERE name = ?", (name,))


def _add(index: sqlite3.Connection, name: str, facts: tuple[int, int, str], entry: Entry) -> None:
    index.execute(
        "INSERT INTO files VALUES (?,?,?,?,?,?)", (name, *facts, entry.kind, entry.problem)
    )
    for table, rows in (("runs", (entry.run,) if entry.run else ()), ("times", entry.times)):
        for row in rows:
            marks = ",".join("?" * (len(row) + 1))
            index.execute(f"INSERT INTO {table} VALUES ({marks})", (name, *row))
