"""The server's process: started, awaited, stopped, and nothing of it left."""

from __future__ import annotations

import logging
import os
import secrets
import select
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from resnext.errors import MissingRequirement, NeverReturned
from resnext_export.triton import server as module
from resnext_export.triton.environment import (
    FOLDER,
    VARIABLE,
    Installation,
    find_server,
    from_environment,
)
from resnext_export.triton.server import RepositoryRefused, free_ports, served
from resnext_export.triton.stand_in import backends_for

#: Speaks as much of the protocol as is needed to be ready; ``MOOD`` says what is wrong with it.
_FAKE = f"""#!{sys.executable} -S
import http.server, os, signal, sys, time
words = dict(word.removeprefix("--").partition("=")[::2] for word in sys.argv[1:])
mood = os.environ.get("MOOD", "")
shared = words["backend-config"].partition("prefix-name=")[2]
open(f"/dev/shm/{{shared}}{{os.environ['TOKEN']}}", "w").close()
if mood == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if mood == "hangs":
    print("I1128 1 a.cc:1] loading", flush=True)
    signal.pause()
if mood == "refuses":
    print("E1128 1 a.cc:1] \\"failed to load 'digits' version 1: Internal: a reason\\"", flush=True)
    sys.exit(1)
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        data = b'{{"name": "triton", "version": "9.9"}}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    do_GET = do_POST = answer
    def log_message(self, *_): pass
host, port = words["http-address"], int(words["http-port"])
try:
    listening = http.server.HTTPServer((host, port), Handler)
except OSError:
    print(f"E1128 1 main.cc:257] \\"failed to start HTTP service: Unavailable - Socket"
          f" '{{host}}:{{port}}' already in use \\"", flush=True)
    sys.exit(1)
print("I1128 1 b.cc:1] \\"model 'digits' instance digits_0 is running warmup sample 'one' for"
      f" iteration 1\\"\\nI1128 1 b.cc:1] \\"Started HTTPService at {{host}}:{{port}}\\"",
      flush=True)
listening.serve_forever()
"""


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    folder = tmp_path_factory.mktemp("server")
    binary = folder / "tritonserver"
    binary.write_text(_FAKE)
    binary.chmod(0o755)
    (folder / "backends" / "python").mkdir(parents=True)
    stub = folder / "stub"
    stub.write_bytes(b"")
    return Installation(
        binary, folder / "backends", stub, None, (), {"onnxruntime": "1.2.3", "openvino": "4.5"}
    )


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", secrets.token_hex(8))


def shared() -> list[Path]:
    return list(Path("/dev/shm").glob(f"resnext-*-{os.environ['TOKEN']}"))


def test_a_server_is_ready_inside_the_block_and_gone_after_it(fake: Installation) -> None:
    with served(Path("/repository"), ["onnxruntime"], fake) as running:
        assert running.http.startswith("http://127.0.0.1:")
        assert running.title == "tritonserver 9.9"
        assert running.warmed == {"digits": ("one",)}
        assert [runner.title for runner in running.backends] == [
            "backend onnxruntime: our stand-in on ONNX Runtime 1.2.3"
        ]
        assert running.ended() == ""
        assert shared()
        process = running._process
    assert process.returncode == -signal.SIGTERM
    assert not shared()


def test_a_server_that_is_killed_is_known_to_have_ended(fake: Installation) -> None:
    with served(Path("/repository"), [], fake) as running:
        os.kill(running._process.pid, signal.SIGKILL)
        running._process.wait()
        assert "was killed (SIGKILL)" in running.ended()
        assert "Started HTTPService" in running.ended()


def test_an_interrupted_block_leaves_nothing(fake: Installation) -> None:
    process = None
    with suppress(KeyboardInterrupt), served(Path("/repository"), [], fake) as running:
        process = running._process
        assert shared()
        raise KeyboardInterrupt
    assert process is not None
    assert process.returncode is not None
    assert not shared()


def test_a_server_that_hangs_is_ended_and_said(
    fake: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOOD", "hangs")
    with (
        pytest.raises(NeverReturned, match=r"not ready in 0\.5 s.*: loading"),
        served(Path("/repository"), [], fake, ready_s=0.5),
    ):
        pass
    assert not shared()


def test_a_server_that_does_not_stop_is_killed_and_said(
    fake: Installation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MOOD", "stubborn")
    with (
        caplog.at_level(logging.WARNING, "resnext"),
        served(Path("/repository"), [], fake, stop_s=0.1) as running,
    ):
        process = running._process
    assert process.returncode == -signal.SIGKILL
    assert "did not end 0.1 s after SIGTERM; it was killed" in caplog.text


def test_a_repository_that_is_refused_is_said_by_model(
    fake: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOOD", "refuses")
    with (
        pytest.raises(RepositoryRefused, match="digits: a reason") as caught,
        served(Path("/repository"), [], fake),
    ):
        pass
    assert [finding.where for finding in caught.value.findings] == ["digits"]


def test_a_port_that_another_process_took_is_left_to_it(
    fake: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        choices = iter([[taken, *free_ports(1)], free_ports(2)])
        monkeypatch.setattr(module, "free_ports", lambda count: next(choices)[:count])
        with served(Path("/repository"), [], fake) as running:
            assert str(taken) not in running.http


# ---- where it is


def environment(folder: Path, facts: str) -> Path:
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\ncat <<'END'\n{facts}\nEND\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return folder


def complete(folder: Path) -> Path:
    stubs = folder / "site/pytriton/tritonserver/python_backend_stubs/3.11"
    stubs.mkdir(parents=True)
    (stubs / "triton_python_backend_stub").touch()
    (folder / "libpython3.11.so.1.0").touch()
    return environment(
        folder,
        f'{{"python": "3.11", "libraries": "{folder}", "pytriton": "{folder}/site/pytriton",'
        ' "versions": {"onnxruntime": "1.31.1", "openvino": null}}',
    )


def without_stub(folder: Path) -> None:
    (folder / "site/pytriton/tritonserver/python_backend_stubs/3.11").rename(folder / "gone")


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda folder: (folder / "bin/python").unlink(), "is not an environment for Triton"),
        (lambda folder: (folder / "bin/python").write_text("#!/bin/sh\nexit 1\n"), "exit status 1"),
        (lambda folder: (folder / "libpython3.11.so.1.0").unlink(), "install libpython3.11"),
        (without_stub, "no program for models in Python 3.11"),
    ],
    ids=["no Python", "a broken Python", "no libpython", "no stub"],
)
def test_an_environment_that_lacks_something_is_refused_with_what_it_lacks(
    harm: Callable[[Path], object], says: str, tmp_path: Path
) -> None:
    folder = complete(tmp_path / "env")
    assert from_environment(folder).versions == {"onnxruntime": "1.31.1"}
    harm(folder)
    with pytest.raises(MissingRequirement, match=says):
        from_environment(folder)


def test_without_pytriton_it_is_no_environment(tmp_path: Path) -> None:
    folder = environment(
        tmp_path / "env", '{"python": "3.11", "libraries": "/", "pytriton": null, "versions": {}}'
    )
    with pytest.raises(MissingRequirement, match="has no nvidia-pytriton"):
        from_environment(folder)


def test_a_named_environment_comes_before_a_program_and_that_before_the_folder_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = complete(tmp_path / "named")
    complete(tmp_path / FOLDER)
    program = tmp_path / "server" / "bin" / "tritonserver"
    program.parent.mkdir(parents=True)
    program.write_text("")
    program.chmod(0o755)
    path = str(program.parent)
    found = [
        find_server(environ)
        for environ in ({VARIABLE: str(named), "PATH": path}, {"PATH": path}, {"PATH": "/nowhere"})
    ]
    assert [it and it.programs for it in found] == [named / "bin", None, tmp_path / FOLDER / "bin"]
    assert found[1] is not None
    assert found[1].binary == program
    assert found[1].stub is None


def test_the_server_gets_its_libraries_and_no_module_path_of_ours(fake: Installation) -> None:
    installation = Installation(
        fake.binary, fake.backends, fake.stub, Path("/env/bin"), (Path("/a"), Path("/b")), {}
    )
    environ = {"PYTHONPATH": "/ours", "PATH": "/usr/bin", "LD_LIBRARY_PATH": "/c", "HOME": "/h"}
    assert installation.environ(environ) == {
        "PATH": "/env/bin:/usr/bin",
        "LD_LIBRARY_PATH": "/a:/b:/c",
        "HOME": "/h",
    }


# ---- backends


def test_each_backend_is_the_servers_own_or_a_stand_in_that_says_so(
    fake: Installation, tmp_path: Path
) -> None:
    wanted = ["tensorrt", "python", "openvino", "onnxruntime", "unheard-of"]
    runners = backends_for(wanted, fake, tmp_path)
    assert [(it.name, it.ours, it.computes) for it in runners] == [
        ("onnxruntime", True, True),
        ("openvino", True, True),
        ("python", False, True),
        ("tensorrt", True, False),
    ]
    assert "computes no logits" in runners[-1].title
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "onnxruntime",
        "openvino",
        "python",
        "tensorrt",
    ]
    assert (tmp_path / "python" / "stub").is_file()


def test_nothing_stands_in_on_a_package_that_is_not_there(
    fake: Installation, tmp_path: Path
) -> None:
    bare = Installation(fake.binary, fake.backends, fake.stub, None, (), {})
    assert backends_for(["onnxruntime"], bare, tmp_path) == []
    assert not (tmp_path / "onnxruntime").exists()


def test_a_whole_server_keeps_its_own_backends(fake: Installation, tmp_path: Path) -> None:
    whole = Installation(fake.binary, fake.backends, None, None, (), {})
    assert [it.title for it in backends_for(["python", "onnxruntime"], whole, tmp_path)] == [
        "backend python: the server's own"
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.exhaustive
def test_a_server_ends_with_a_process_that_is_killed(fake: Installation, tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from resnext_export.triton.environment import Installation\n"
        "from resnext_export.triton.server import served\n"
        f"it = Installation(Path({str(fake.binary)!r}), Path({str(fake.backends)!r}),"
        f" Path({str(fake.stub)!r}), None, (), {{}})\n"
        "with served(Path('/repository'), [], it) as running:\n"
        "    print(running._process.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)},
    ) as parent:
        assert parent.stdout is not None
        ending = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    ready, _, _ = select.select([ending], [], [], 10)
    os.close(ending)
    assert ready
    for path in shared():
        path.unlink()
