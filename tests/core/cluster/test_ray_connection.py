"""What is wrong with a cluster is said in one line, before Ray waits for it."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from resnext.cluster import ray_connection
from resnext.cluster.ray_connection import connected, connection_problem, open_cluster
from resnext.cluster.ray_crew import RayCrew, ray_reason
from resnext.cluster.ray_worker import RayWorker
from resnext.errors import MissingRequirement, UsageError
from resnext.version import __version__


@pytest.mark.parametrize(
    "address", ["ray://10.0.0.5:10001", "10.0.0.5", ":6379", "host:x", "local"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="not the address of a Ray cluster"), connected(address):
        pass


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(MissingRequirement, match=r"pip install 'resnext-toolkit\[ray\]'"),
        RayCrew("127.0.0.2:6399", "x:y"),
    ):
        pass


def test_a_port_where_nobody_listens_is_said_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", 0))
        address = f"127.0.0.2:{taken.getsockname()[1]}"
        with (
            pytest.raises(MissingRequirement, match="there is no Ray cluster at"),
            connected(address),
        ):
            pass


def test_a_port_of_something_else_is_said_before_ray_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr(ray_connection, "_ANSWERING_S", 0.2)
    with socket.create_server(("127.0.0.2", 0)) as mute:
        address = f"127.0.0.2:{mute.getsockname()[1]}"
        with (
            pytest.raises(MissingRequirement, match=r"not the head of a Ray cluster; .*8265"),
            connected(address),
        ):
            pass


@pytest.mark.parametrize(
    ("code", "words", "says"),
    [
        (12, "Method not found!", "is not the head of a Ray cluster"),
        (16, "InvalidAuthToken: Authentication token is missing", "RAY_AUTH_TOKEN_PATH"),
    ],
    ids=["port of Ray's client", "token"],
)
def test_a_refusal_is_said_before_ray_tries_again(
    monkeypatch: pytest.MonkeyPatch, code: int, words: str, says: str
) -> None:
    raylet: Any = pytest.importorskip("ray._raylet")

    class RpcError(Exception):
        rpc_code = code

    def client(**_: str) -> None:
        raise RpcError(words)

    monkeypatch.setattr(raylet, "GcsClient", client)
    with socket.create_server(("127.0.0.2", 0)) as head:
        address = f"127.0.0.2:{head.getsockname()[1]}"
        with pytest.raises(MissingRequirement) as raised, connected(address):
            pass
    assert says in f"{raised.value} {raised.value.hint}"


@pytest.mark.parametrize("content", [None, b"", b"\n"])
def test_a_token_that_is_missing_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    asks = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
    with pytest.raises(MissingRequirement, match=r"there is none in .*token"):
        ray_connection.check_token(asks)
    ray_connection.check_token({**asks, "RAY_AUTH_TOKEN": "x"})
    ray_connection.check_token({**asks, "RAY_AUTH_MODE": "disabled"})
    path.write_bytes(b"x")
    ray_connection.check_token(asks)


@pytest.mark.parametrize(
    ("cluster", "says"),
    [
        (
            {"ray_version": "2.51.0", "python_version": "3.11.1"},
            r"Ray 2\.51\.0 and Python 3\.11\.1, here .*pip install ray==2\.51\.0 and use Python",
        ),
        ({"python_version": "3.9.0"}, r"; use Python 3\.9\.0$"),
    ],
)
def test_other_versions_are_one_line_with_the_fix(cluster: dict[str, str], says: str) -> None:
    utils: Any = pytest.importorskip("ray._private.utils")
    ray_version, python_version = utils.compute_version_info()
    there = {"ray_version": ray_version, "python_version": python_version} | cluster
    with pytest.raises(RuntimeError) as raised:
        utils.check_version_info(there, "this machine")
    problem = str(connection_problem("10.0.0.5:6379", str(raised.value)))
    assert "\n" not in problem
    with pytest.raises(MissingRequirement, match=says):
        raise connection_problem("10.0.0.5:6379", str(raised.value))


def test_a_refused_token_names_the_variables() -> None:
    assert "RAY_AUTH_TOKEN_PATH" in str(connection_problem("a:1", "Authentication failed: token"))


@pytest.mark.parametrize(
    ("address", "mode", "warns"),
    [
        ("10.0.0.5:6379", "", True),
        ("10.0.0.5:6379", "disabled", True),
        ("10.0.0.5:6379", "token", False),
        ("127.0.0.2:6399", "", False),
        ("localhost:6399", "", False),
        ("[::1]:6399", "", False),
    ],
)
def test_an_open_cluster_is_warned_about(address: str, mode: str, warns: bool) -> None:
    assert ("no authentication" in open_cluster(address, {"RAY_AUTH_MODE": mode})) is warns


def test_a_machine_with_another_toolkit_is_refused() -> None:
    worker = RayWorker()
    refused = worker.hello("0.0.9", "fakes.crew:doubling", b"")
    assert refused is not None
    assert refused[0] == "MissingRequirement"
    assert f"resnext-toolkit {__version__} is installed there, 0.0.9 here" in refused[1]


def test_why_an_actor_is_lost_is_one_line_without_ids() -> None:
    class ActorDiedError(Exception):
        pass

    died = ActorDiedError(
        "The actor died unexpectedly before finishing this task.\n\tclass_name: RayWorker\n"
        "\tactor_id: ab12\n\tpid: 7\nThe actor died because its node has died. Node Id: 4a"
    )
    assert ray_reason(died) == (
        "ActorDiedError: The actor died because its node has died. Node Id: 4a"
    )
    away = ActorDiedError("The actor 4eed709a is unavailable: RPC error: Socket closed.\nx")
    assert ray_reason(away) == "ActorDiedError: RPC error: Socket closed."
