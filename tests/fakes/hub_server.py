"""A model hub and a file server on the loopback address, in the real layouts, with faults.

Like the hub it answers ``/OWNER/REPO/resolve/REVISION/FILE`` with the commit and the etag; large
files are on another host, behind a redirect, with range requests. ``/models/NAME`` are plain files.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import logging
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

#: Files of this ending are large: stored under their sha256, and served from elsewhere.
_LARGE = (".safetensors", ".bin")


@dataclass
class Repository:
    """One repository: revisions with their commits, commits with their files."""

    commits: dict[str, dict[str, bytes]]
    revisions: dict[str, str]
    gated: bool = False


@dataclass
class HubServer:
    """What is served, and what goes wrong.

    Attributes:
        repositories: by ``OWNER/REPO``.
        files: plain files by name.
        token: the one that gated repositories ask for.
        cut: connections that are still to be closed after ``cut_after`` bytes of a large file.
        cut_after: see ``cut``.
        status: answers every request if it is not 0.
        altered: a byte of each large file is another one.
        ranges: whether range requests are served.
        requests: method, path, range and authorization of each request.
    """

    url: str = ""
    elsewhere: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    token: str = "hf_secret"
    cut: int = 0
    cut_after: int = 0
    status: int = 0
    altered: bool = False
    ranges: bool = True
    requests: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)

    def add(self, repository: str, files: dict[str, bytes]) -> str:
        """Serve ``files`` as the newest commit of a repository; returns the commit."""
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        known = self.repositories.setdefault(repository, Repository({}, {}))
        known.commits[commit] = files
        known.revisions["main"] = commit
        return commit

    def connect(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        """Let the libraries know no other host, and keep their caches in ``folder``."""
        from huggingface_hub import constants, file_download

        patch.setenv("TORCH_HOME", str(folder / "torch"))
        patch.delenv("HF_TOKEN", raising=False)
        template = "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "ENDPOINT", self.url)
        for module in (constants, file_download):  # which has a copy in older releases
            patch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", self.url + template, raising=False)
        patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
        patch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(time, "sleep", lambda _: None)  # between two tries
        patch.setattr(logging.getLogger("huggingface_hub"), "level", logging.ERROR)

    def paths(self) -> list[str]:
        """Paths of the requests for content."""
        return [path for method, path, *_ in self.requests if method == "GET"]


def write_certificate(path: Path) -> None:
    """Write a key and a certificate of this host, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )


@contextmanager
def serving(certificate: Path | None = None) -> Iterator[HubServer]:
    """A server that runs until the end of the block.

    Args:
        certificate: file with a key and a certificate of this host; None serves without TLS.
    """
    state = HubServer()
    handler = type("Handler", (_Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    scheme = "http"
    if certificate is not None:
        scheme, context = "https", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    state.url = f"{scheme}://127.0.0.1:{server.server_port}"
    state.elsewhere = f"{scheme}://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: HubServer

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        state = self.state
        authorization = self.headers.get("Authorization")
        state.requests.append((self.command, self.path, self.headers.get("Range"), authorization))
        folder, _, name = self.path.strip("/").partition("/")
        if state.status:
            self._reply(state.status, {}, b"")
        elif folder == "models":
            self._content(state.files.get(name))
        elif folder == "large":
            contents = {
                hashlib.sha256(data).hexdigest(): data
                for known in state.repositories.values()
                for files in known.commits.values()
                for data in files.values()
            }
            self._content(contents.get(name))
        else:
            self._reply(*self._of_repository(authorization))

    def _of_repository(self, authorization: str | None) -> tuple[int, dict[str, str], bytes]:
        owner, name, _, revision, file = self.path.strip("/").split("/")
        known = self.state.repositories.get(f"{owner}/{name}")
        if known is None:
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        if known.gated and authorization != f"Bearer {self.state.token}":
            return 403 if authorization else 401, {"X-Error-Code": "GatedRepo"}, b""
        commit = known.revisions.get(revision, revision)
        if commit not in known.commits:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        headers = {"X-Repo-Commit": commit}
        data = known.commits[commit].get(file)
        if data is None:
            return 404, {**headers, "X-Error-Code": "EntryNotFound"}, b""
        if not file.endswith(_LARGE):
            return 200, {**headers, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}, data
        digest = hashlib.sha256(data).hexdigest()
        headers |= {
            "X-Linked-Etag": f'"{digest}"',
            "X-Linked-Size": str(len(data)),
            "Location": f"{self.state.elsewhere}/large/{digest}",
        }
        return 302, headers, b""

    def _content(self, data: bytes | None) -> None:
        """A large file, or the part of it that is asked for."""
        if data is None:
            self._reply(404, {}, b"")
            return
        if self.state.altered:
            data = data[:-1] + bytes([data[-1] ^ 1])
        whole, wanted = len(data), self.headers.get("Range")
        start = 0
        if wanted and self.state.ranges:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
        if start and start >= whole:
            self._reply(416, {}, b"")
        elif start:
            content_range = f"bytes {start}-{whole - 1}/{whole}"
            self._reply(206, {"Content-Range": content_range}, data[start:])
        else:
            self._reply(200, {}, data)

    def _reply(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.path.startswith(("/large/", "/models/")) and self.state.cut > 0:
            self.state.cut -= 1
            data = data[: self.state.cut_after]
        self.wfile.write(data)
