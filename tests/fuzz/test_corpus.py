"""Every file of the corpus, and every past finding, through its reader; without atheris."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz import corpus, harnesses
from fuzz.run import repaired

HERE = Path(__file__).parent
FILES = sorted(
    path.relative_to(HERE).as_posix()
    for folder in ("corpus", "findings")
    for path in (HERE / folder).rglob("*")
    if path.is_file()
)


@pytest.fixture(scope="module", autouse=True)
def _tidy() -> Iterator[None]:
    # Run side by side, a process may come back to this module after others.
    harnesses.SCRATCH.mkdir(exist_ok=True)
    yield
    harnesses.clean()


def test_every_reader_has_a_corpus_and_every_corpus_a_reader() -> None:
    assert {path.name for path in (HERE / "corpus").iterdir()} == set(harnesses.HARNESSES)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_the_corpus_or_a_past_finding_is_harmless(name: str) -> None:
    harnesses.run(Path(name).parent.name, (HERE / name).read_bytes())


@pytest.mark.parametrize("name", harnesses.HARNESSES)
def test_a_few_mutations_of_each_file_are_harmless(name: str) -> None:
    draw = random.Random(name)
    for path in sorted((HERE / "corpus" / name).iterdir()):
        for _ in range(15):
            data = bytearray(path.read_bytes())
            for _ in range(draw.randint(1, 4)):
                data[draw.randrange(len(data))] = draw.randrange(256)
            data = data[: draw.randint(1, len(data))] if draw.random() < 0.2 else data
            harnesses.run(name, repaired(bytes(data)))


def test_the_corpus_is_small() -> None:
    assert sum((HERE / name).stat().st_size for name in FILES) < 200_000


def test_the_corpus_can_be_written_again(tmp_path: Path) -> None:
    corpus.write(tmp_path)
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    kept = {path.relative_to(HERE / "corpus") for path in (HERE / "corpus").rglob("*")}
    assert written == {path for path in kept if (HERE / "corpus" / path).is_file()}


class Planted:
    """Runs a program when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return subprocess.call, (["true"],)


@pytest.mark.parametrize(
    "fault",
    [
        lambda _: pickle.loads(pickle.dumps(Planted())),
        lambda _: os.system("true"),
        lambda _: Path("/tmp/resnext-outside").write_bytes(b""),
        lambda _: Path("/nonexistent").rename("/nowhere"),
    ],
    ids=["pickle", "program", "written", "renamed"],
)
def test_a_reader_that_does_more_than_read_is_noticed(
    fault: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(harnesses.HARNESSES, "json", fault)
    with pytest.raises(harnesses.Escaped):
        harnesses.run("json", b"")
    Path("/tmp/resnext-outside").unlink(missing_ok=True)


@pytest.mark.parametrize("text", ["two\nlines", "x" * 3000])
def test_a_refusal_that_is_not_one_line_is_noticed(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: bytes) -> None:
        raise ValueError(text)

    monkeypatch.setitem(harnesses.HARNESSES, "json", refuse)
    with pytest.raises(AssertionError):
        harnesses.run("json", b"")


def test_another_error_than_a_refusal_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: bytes) -> None:
        raise KeyError("x")

    monkeypatch.setitem(harnesses.HARNESSES, "json", fail)
    with pytest.raises(KeyError):
        harnesses.run("json", b"")
