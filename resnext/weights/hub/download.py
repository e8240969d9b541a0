"""Files by URL, in the cache of `torch.hub`: what torchvision has fetched is not fetched again.

`torch.hub.download_url_to_file` waits forever for a server that has stopped sending, starts over
after a cut connection, and reports one as a wrong checksum. This does none of these.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from resnext.errors import BadWeights, MissingRequirement, first_line
from resnext.progress import transfer
from resnext.readers.files import exists, file_sha256

#: In OpenSSL's message if a proxy decrypts the connection with a certificate unknown here.
CERTIFICATE = "CERTIFICATE_VERIFY_FAILED"
CERTIFICATE_HINT = "if your network's proxy has a certificate, name its file in SSL_CERT_FILE"
#: Longest wait for the next byte.
_TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 20


def file_from_url(url: str, sha256: str) -> Path:
    """The file of ``url``, from the cache if it is there.

    Args:
        url: its last part, the name in the cache, identifies the content.
        sha256: the first digits of the file's digest.

    Raises:
        MissingRequirement: it cannot be fetched from here, or not be stored.
        BadWeights: the file has another digest.
    """
    import torch.hub
    from filelock import FileLock

    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if exists(path):
        if not file_sha256(path).startswith(sha256):
            raise BadWeights(
                f"{path} is damaged: its sha256 does not begin with {sha256}", hint="delete it"
            )
        return path
    partial, lock = (path.with_name(path.name + ending) for ending in (".part", ".part.lock"))
    with _translated(url, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            if not exists(path):
                _fetch(url, partial)
                _check(partial, url, sha256)
                partial.replace(path)
            lock.unlink(missing_ok=True)  # nobody writes once the file is there
    return path


def _check(partial: Path, url: str, sha256: str) -> None:
    if not file_sha256(partial).startswith(sha256):
        partial.unlink()
        raise BadWeights(
            f"the file at {url} is not the published one: its sha256 does not begin with {sha256}",
            hint="try again, on another network if a proxy may have changed it",
        )


def _fetch(url: str, partial: Path) -> None:
    """Write the file to ``partial``, after the bytes that an earlier call left there."""
    start = partial.stat().st_size if partial.exists() else 0
    request = Request(url, headers={"User-Agent": "resnext-toolkit"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        reply = urlopen(request, timeout=_TIMEOUT_S)
    except HTTPError as exc:
        if exc.code != 416:  # the file is no longer than what is there already
            raise
        exc.close()
        return
    with reply, partial.open("ab" if reply.status == 206 else "wb") as file:
        start = file.tell()
        length = reply.headers.get("Content-Length")
        total = start + int(length) if length else None
        with transfer(url.rpartition("/")[2], total, start) as advance:
            while chunk := reply.read(_CHUNK_BYTES):
                file.write(chunk)
                advance(len(chunk))
        file.flush()
        os.fsync(file.fileno())
        if total is not None and file.tell() < total:
            raise ConnectionError(f"cut after {file.tell()} of {total} bytes")


@contextmanager
def _translated(url: str, path: Path) -> Iterator[None]:
    """Errors of the network and the disk, as one line with a hint."""
    try:
        yield
    except HTTPError as exc:
        exc.close()
        raise MissingRequirement(
            f"{url} answered {exc.code} {exc.reason}",
            hint="try again later, or from another network",
        ) from exc
    except (OSError, HTTPException) as exc:
        number = getattr(exc, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise MissingRequirement(
                f"the disk has no room for {path}",
                hint="free some space, or set TORCH_HOME to another folder",
            ) from exc
        if getattr(exc, "filename", None) is not None:
            raise MissingRequirement(
                f"cannot write {path}: {exc}", hint="set TORCH_HOME to another folder"
            ) from exc
        reason = str(getattr(exc, "reason", None) or first_line(exc))
        if CERTIFICATE in reason:
            raise MissingRequirement(
                f"{url} could not be fetched: {reason}", hint=CERTIFICATE_HINT
            ) from exc
        raise MissingRequirement(
            f"{url} could not be fetched: {reason}",
            hint="try again: it goes on where it stopped. Without a network, copy the file to"
            f" {path} from a connected machine",
        ) from exc
