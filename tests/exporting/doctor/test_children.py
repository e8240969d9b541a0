"""A library that kills its process, or never answers, costs its own line and no other."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from fakes.distributions import distribution, needs
from resnext_export.doctor.child import SIGNALS, Died, died_hint, examine
from resnext_export.doctor.facts import Facts
from resnext_export.doctor.packages import check_imports, check_owners

#: Answers with each name, unless it is the name of what to do instead.
DYING = """
import os, signal, sys, time

def answers(names):
    for name in names:
        print("a library prints what it likes", flush=True)
        os.write(2, b"x" * 200_000)
        if name.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, name))
        if name == "hang":
            time.sleep(600)
        if name == "exit":
            sys.exit("licence expired")
        yield {"name": name, "variable": os.environ.get("PLANTED")}
"""


@pytest.fixture
def dying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "planted_dying.py").write_text(DYING)
    monkeypatch.syspath_prepend(tmp_path)
    return "planted_dying"


def test_whoever_kills_the_process_is_named_and_the_others_answer(dying: str) -> None:
    names = ["a", "SIGSEGV", "b", "SIGILL", "exit", "c"]
    environ = {**os.environ, "PLANTED": "yes"}
    seen = dict(examine(dying, names, timeout_s=60, environ=environ))
    assert list(seen) == names
    assert [seen[name] for name in "abc"] == [{"name": name, "variable": "yes"} for name in "abc"]
    assert str(seen["SIGSEGV"]) == "killed its process (SIGSEGV)"
    assert (seen["SIGILL"].signal, seen["exit"].signal) == ("SIGILL", "")
    assert str(seen["exit"]) == "ended its process with exit code 1: " + "x" * 200


def test_whoever_never_answers_is_ended(dying: str) -> None:
    began = time.monotonic()
    seen = dict(examine(dying, ["hang", "a"], timeout_s=2))
    assert str(seen["hang"]) == "gave no answer for 2 s and was ended"
    assert seen["a"]["name"] == "a"
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("name", SIGNALS)
def test_every_signal_has_its_line(name: str) -> None:
    hint = died_hint(Died("x", name), "torch==2")
    assert hint.startswith(SIGNALS[name])
    assert ("pip install torch==2" in hint) == ("again" in SIGNALS[name])


def test_what_is_imported_is_asked_of_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two distributions on the path, and a module that says that it is neither's."""
    text = "__version__ = '2.0'\n"
    for name in ("planted-module", "planted-module-gpu"):
        distribution(tmp_path, name, "1.0", {"planted_module/__init__.py": text})
    (tmp_path / "planted_broken.py").write_text(
        "raise ImportError('libGL.so.1: cannot open shared object file: No such file')\n"
    )
    distribution(tmp_path, "planted-broken", "1.0", {})
    monkeypatch.syspath_prepend(tmp_path)
    machine = Facts()
    machine.__dict__["needed"] = (needs("planted-module"), needs("planted-broken"))
    [owners] = check_owners(machine)
    assert "planted-module 1.0 and planted-module-gpu 1.0 install the same" in owners.message
    assert f"imported is either's 2.0 ({tmp_path}/planted_module/__init__.py)" in owners.message
    assert owners.hint.endswith("&& pip install planted-module==1.0")
    problem, fine = check_imports(machine)
    assert problem.message == "planted_broken does not load: the library libGL.so.1 is not found"
    assert problem.hint == "apt-get install libgl1"
    assert fine.message == "modules that load: 1"
