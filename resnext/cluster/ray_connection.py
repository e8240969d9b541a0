"""The connection to a Ray cluster: versions, authentication, and one line for what is wrong."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from resnext.errors import MissingRequirement, UsageError, first_line

#: Set before Ray is imported: no usage statistics, no log lines of other machines here, and
#: devices left alone where none is asked for, which Ray otherwise warns about.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_CONNECTING_S = 5.0
#: How long the head may take for its first answer, seconds.
_ANSWERING_S = 15.0
#: gRPC's code of a server that knows no such method.
_UNIMPLEMENTED = 12
_LOG = logging.getLogger("resnext.cluster")


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """The module ``ray``, connected to the cluster at ``address``, and left in the end; a
    connection that is there already is used and left alone.

    Args:
        address: HOST:PORT of the cluster's head, or ``auto`` for that of this machine.

    Raises:
        UsageError: it is no such address.
        MissingRequirement: Ray is not installed, there is no cluster, or it has another version of
            Ray or Python, or refuses the token.
    """
    host = _host(address)
    os.environ.update(_ENVIRONMENT)
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    check_token(os.environ)
    if host is not None:
        _check_port(*(_host(_as_ray_reads(ray, address)) or host))
        _check_head(_as_ray_reads(ray, address))
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with warnings.catch_warnings():
            # Ray's settings of its log files are left open.
            warnings.simplefilter("ignore", ResourceWarning)
            ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (RuntimeError, ConnectionError, OSError, ValueError) as exc:
        raise connection_problem(address, str(exc)) from exc
    except ray.exceptions.RayError as exc:
        raise connection_problem(address, str(exc)) from exc
    finally:
        if _is_main_thread():
            signal.signal(signal.SIGTERM, handler)
    # Ray prints what happens to machines on stdout, a hundred lines for each that is lost.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    try:
        if warning := open_cluster(ray.get_runtime_context().gcs_address, os.environ):
            _LOG.warning(warning)
        yield ray
    finally:
        ray.shutdown()


def import_ray() -> Any:
    """The module ``ray``.

    Raises:
        MissingRequirement: it is not installed.
    """
    try:
        import ray
    except ImportError as exc:
        raise MissingRequirement(
            "ray is not installed", hint="pip install 'resnext-toolkit[ray]'"
        ) from exc
    return ray


def open_cluster(address: str, environment: Any) -> str:
    """A warning about a cluster that anybody who reaches its port can run code on; "" if it has
    authentication or is on the loopback address.
    """
    host = address.rpartition(":")[0].strip("[]")
    if environment.get("RAY_AUTH_MODE", "").lower() == "token":
        return ""
    if host in ("localhost", "::1") or host.startswith("127."):
        return ""
    return (
        f"the Ray cluster at {address} has no authentication: whoever reaches its ports can run"
        " code on it; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH on all machines"
    )


def connection_problem(address: str, words: str) -> MissingRequirement:
    """Ray's words about a connection as one line, with what to do."""
    versions = re.findall(r"^\s+(Ray|Python): (\S+)", words, re.MULTILINE)
    if "Version mismatch" in words and len(versions) == 4:
        (_, ray), (_, python), (_, our_ray), (_, our_python) = versions
        fixes = [f"pip install ray=={ray}"] if ray != our_ray else []
        fixes += [f"use Python {python}"] if python != our_python else []
        return MissingRequirement(
            f"the cluster at {address} has Ray {ray} and Python {python}, here are Ray {our_ray}"
            f" and Python {our_python}",
            hint=" and ".join(fixes),
        )
    if re.search(r"[Aa]uthenticat|token", words):
        return MissingRequirement(
            f"the cluster at {address} refuses this connection: {first_line(words)[:200]}",
            hint="set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH as on the cluster",
        )
    return MissingRequirement(
        f"cannot connect to the Ray cluster at {address}: {first_line(words)[:300]}",
        hint="run this on one of its machines: ray status",
    )


def _host(address: str) -> tuple[str, int] | None:
    if address == "auto":
        return None
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not (port.isascii() and port.isdigit()):
        raise UsageError(
            f"{address!r} is not the address of a Ray cluster: HOST:PORT of its head, or auto",
            hint="run this on a machine of the cluster; ray:// is for those outside of it",
        )
    return host.strip("[]"), int(port)


def _as_ray_reads(ray: Any, address: str) -> str:
    """The address that Ray makes of ``address``: it takes this machine's for 127.0.0.1."""
    try:
        return str(ray._private.services.canonicalize_bootstrap_address(address))
    except Exception:  # not part of Ray's public interface
        return address


def _check_port(host: str, port: int) -> None:
    """Ray itself tries for a minute, and then ends the process."""
    try:
        socket.create_connection((host, port), _CONNECTING_S).close()
    except (OSError, OverflowError) as exc:
        raise MissingRequirement(
            f"there is no Ray cluster at {host}:{port}: {first_line(exc)}",
            hint="start its head there, or correct the address",
        ) from exc


def _check_head(address: str) -> None:
    """Ray itself asks for minutes, whatever listens there and whatever it answers."""
    answered = threading.Event()
    errors: list[Exception] = []

    def ask() -> None:
        try:
            import_module("ray._raylet").GcsClient(address=address)
        except Exception as exc:  # also if it is gone: it is not part of Ray's public interface
            errors.append(exc)
        answered.set()

    threading.Thread(target=ask, daemon=True).start()
    in_time = answered.wait(_ANSWERING_S)
    code = getattr(errors[0], "rpc_code", None) if errors else None
    if not in_time or code == _UNIMPLEMENTED:
        raise MissingRequirement(
            f"what listens at {address} is not the head of a Ray cluster",
            hint="give the port of `ray start`, by default 6379; the dashboard (8265) and Ray's"
            " client (10001) have others",
        )
    if errors and "InvalidAuthToken" in str(errors[0]):
        raise connection_problem(address, str(errors[0]))


def check_token(environment: Mapping[str, str]) -> None:
    """Check that there is a token if Ray is to use one: without, it ends this process.

    Raises:
        MissingRequirement: there is none.
    """
    if environment.get("RAY_AUTH_MODE", "").lower() != "token" or environment.get("RAY_AUTH_TOKEN"):
        return
    path = Path(environment.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        empty = not path.read_bytes().strip()
    except OSError:
        empty = True
    if empty:
        raise MissingRequirement(
            f"RAY_AUTH_MODE is token, and there is none in {path}",
            hint="copy the cluster's token there, or set RAY_AUTH_TOKEN_PATH",
        )


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
