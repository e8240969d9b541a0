"""Whose artifacts may be opened: the policy that every artifact is read under.

One seam: `read_artifact` calls `check_trust` on whatever it is about to return, so no command and
no function opens an artifact that the policy refuses. The policy is the argument ``trust``, or
what `trusting` has set for the process, or the environment's.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from resnext.errors import BadArtifact, BadInput
from resnext.readers.files import MOST_JSON, file_sha256, read_file
from resnext.storage import cache_folder

from .kinds import KINDS
from .manifest import MANIFEST_NAME, Manifest, manifest_sha256
from .signature import SIGNATURE_NAME, signed_digests

_log = logging.getLogger("resnext")

#: In the cache folder: the sha256 of each engine and package that was built here, one a line.
_BUILT_HERE = "built-here.txt"


@dataclass(frozen=True)
class Trust:
    """Whose artifacts may be opened.

    Attributes:
        keys: public keys (PEM files) whose signatures count.
        required: refuse an artifact that none of them signed.
    """

    keys: tuple[Path, ...] = ()
    required: bool = False

    def __or__(self, other: Trust) -> Trust:
        """The keys of both; required if one requires it."""
        return Trust((*self.keys, *other.keys), self.required or other.required)


_set: list[Trust] = []


@contextmanager
def trusting(trust: Trust) -> Iterator[None]:
    """Read artifacts under ``trust`` and the environment's policy, in the whole process."""
    _set.append(current_trust() | trust)
    try:
        yield
    finally:
        _set.pop()


def current_trust() -> Trust:
    """What `trusting` has set, or what RESNEXT_TRUST (public keys, separated as in PATH) and
    RESNEXT_REQUIRE_SIGNATURE say.
    """
    if _set:
        return _set[-1]
    keys = os.environ.get("RESNEXT_TRUST", "").split(os.pathsep)
    required = os.environ.get("RESNEXT_REQUIRE_SIGNATURE", "0") not in ("", "0")
    return Trust(tuple(Path(key) for key in keys if key), required)


def check_trust(directory: Path, manifest: Manifest, trust: Trust) -> None:
    """Check that an artifact may be opened under ``trust``, when it was just read.

    An engine or a package is code. One that is neither signed by a trusted key nor built on this
    machine is logged as a warning.

    Args:
        directory: folder of the artifact.
        manifest: what was read there; the file has its digest.
        trust: the policy.

    Raises:
        BadArtifact: a signature is required and there is none by a trusted key, or a trusted key
            signed other bytes.
        BadInput: a key cannot be used.
        MissingRequirement: the packages for signatures are not installed.
    """
    if check_signed(directory, manifest, {manifest.file: manifest.file_sha256}, trust, whole=True):
        return
    if KINDS[manifest.kind].code and not built_here(manifest.file_sha256):
        _log.warning(
            "%s is compiled code, neither built on this machine nor signed by a trusted key: it can"
            " do anything that you can; rebuild it here, or name its signer's public key in"
            " RESNEXT_TRUST",
            directory / manifest.file,
        )


def check_signed(
    directory: Path,
    manifest: Manifest,
    digests: Mapping[str, str],
    trust: Trust,
    *,
    whole: bool = False,
) -> bool:
    """Check an artifact's manifest, and other files, against the signature of a trusted key.

    Args:
        directory: folder of the artifact.
        manifest: what was read there.
        digests: sha256 by name of the other files in use.
        trust: the policy.
        whole: check every other signed file, too, as a verdict that somebody may read later.

    Returns:
        Whether a trusted key signed them.

    Raises:
        BadArtifact: as `check_trust`.
        BadInput: as `check_trust`.
        MissingRequirement: as `check_trust`.
    """
    signed = signed_digests(directory, trust.keys) if trust.keys else None
    if signed is None:
        if trust.required:
            raise _untrusted(directory, trust)
        return False
    actual_digests = {MANIFEST_NAME: manifest_sha256(directory, manifest), **digests}
    if whole:
        for name in sorted(signed.keys() - actual_digests.keys()):
            actual_digests[name] = file_sha256(directory / name)
    for name, actual in actual_digests.items():
        if signed.get(name) != actual:
            raise BadArtifact(
                f"{directory / name} is not the file that {directory / SIGNATURE_NAME} is over:"
                " altered after it was signed",
                hint="get the artifact again, or sign it again if you know why",
            )
    return True


def _untrusted(directory: Path, trust: Trust) -> BadArtifact:
    """Why an artifact is refused, and what to do: it is not signed, or by somebody else."""
    text = f"{directory} is not signed by a trusted key, which is required here"
    if not (directory / SIGNATURE_NAME).exists():
        return BadArtifact(f"{text}: it has no {SIGNATURE_NAME}", hint="sign it first")
    if not trust.keys:
        return BadArtifact(
            f"{text}: no key is trusted", hint="name the public key in `trust` or RESNEXT_TRUST"
        )
    keys = ", ".join(map(str, trust.keys))
    return BadArtifact(
        f"{text}: {SIGNATURE_NAME} is not by {keys}",
        hint="name the public key of whoever signed it in `trust` or RESNEXT_TRUST",
    )


def remember_built(sha256: str) -> None:
    """Note that this machine built a file, so that opening it needs no warning. Best effort: with a
    cache folder that cannot be written to, the file will be a stranger's.
    """
    if built_here(sha256):
        return
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / _BUILT_HERE
        if path.exists() and not path.is_file():
            return  # a pipe would block
        with path.open("a", encoding="ascii") as file:
            file.write(sha256 + "\n")  # a short line: appended whole
    except OSError:
        pass


def built_here(sha256: str) -> bool:
    """Whether this machine built that file, as far as the cache folder remembers."""
    try:
        return sha256.encode() in read_file(cache_folder() / _BUILT_HERE, MOST_JSON).split()
    except BadInput:  # none yet, or no regular file
        return False
