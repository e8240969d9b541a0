"""Sign an artifact with its verdict, and verify both: parity that someone vouches for.

`sign_artifact` writes two files. ``model.sig`` is an OpenSSF Model Signing bundle over every file
of the folder, which the command ``model_signing`` verifies, too. ``verdict.intoto.json`` is an
in-toto statement of a test result: its subject is the artifact's file, its content the verdict.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from resnext.artifact.files import (
    COMPANIONS,
    STATEMENT_NAME,
    VERDICT_NAME,
    Artifact,
    read_artifact,
)
from resnext.artifact.manifest import MANIFEST_NAME
from resnext.artifact.signature import (
    MOST_SIGNED,
    SIGNATURE_NAME,
    STATEMENT,
    not_installed,
    private_key,
    public_key,
    signed_digests,
    signed_envelope,
    signed_payload,
)
from resnext.artifact.trust import Trust
from resnext.errors import BadArtifact, BadInput, MissingRequirement, UsageError, first_line
from resnext.readers.files import MOST_JSON, exists, file_sha256, is_folder, read_file
from resnext.readers.strict_json import parse_json
from resnext.storage import write_whole

from .verdict import Verdict, check_binding, read_verdict, verdict_sha256

_PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"
_SIGN_AGAIN = "get the artifact again, or sign it again if you know why"


def sign_artifact(path: Path, key: Path) -> tuple[Artifact, Verdict | None]:
    """Sign the artifact in ``path``; an earlier signature is replaced.

    Args:
        path: folder of the artifact, or the file in it.
        key: private P-256 key, PEM, without a password.

    Returns:
        The artifact, and the verdict that was signed with it; None if it has none.

    Raises:
        BadArtifact: the artifact or its verdict is damaged, or the verdict is about other bytes.
        GateFailed: the verdict did not pass.
        UsageError: the folder holds other files; a bill of materials of this artifact is signed
            along.
        BadInput: the key cannot be used.
        MissingRequirement: the packages for signatures are not installed, or the folder cannot be
            written to.
    """
    private = private_key(key)
    try:
        from model_signing import hashing, signing
    except ModuleNotFoundError as exc:
        raise not_installed(exc) from exc
    artifact = read_artifact(path, trust=Trust())
    directory = artifact.directory
    allowed = {MANIFEST_NAME, artifact.manifest.file, *COMPANIONS}
    others = sorted(name for name in _files(directory) - allowed if not _is_bill_of(artifact, name))
    if others:
        raise UsageError(
            f"{directory} holds other files besides an artifact: {', '.join(others)}",
            hint="move them elsewhere, and sign again (this artifact's bill of materials may stay)",
        )
    verdict = None
    if (directory / VERDICT_NAME).exists():
        verdict = read_verdict(directory)
        check_binding(artifact, verdict)
    try:
        (directory / SIGNATURE_NAME).unlink(missing_ok=True)
        (directory / STATEMENT_NAME).unlink(missing_ok=True)
        if verdict is not None:
            statement = json.dumps(_statement(artifact, verdict)).encode()
            envelope = json.dumps(signed_envelope(statement, private), indent=2) + "\n"
            write_whole(directory / STATEMENT_NAME, envelope.encode())
        with TemporaryDirectory(prefix="resnext-") as scratch:
            bundle = Path(scratch) / SIGNATURE_NAME
            hashes: Any = hashing.Config  # untyped in model-signing
            signer: Any = signing.Config
            whole = hashes().set_ignored_paths(paths=[SIGNATURE_NAME], ignore_git_paths=False)
            (
                signer()
                .set_hashing_config(whole)
                .use_elliptic_key_signer(private_key=key)
                .sign(directory, bundle)
            )
            write_whole(directory / SIGNATURE_NAME, bundle.read_bytes())
    except OSError as exc:
        raise MissingRequirement(f"cannot write to {directory}: {exc.strerror or exc}") from exc
    return artifact, verdict


def verify_signature(path: Path, key: Path) -> tuple[Artifact, Verdict | None]:
    """Check every file in an artifact's folder against the signature of ``key``, and the signed
    verdict, if there is one, against the artifact.

    Whether the verdict holds on this machine is not asked (`verify_artifact`).

    Args:
        path: folder of the artifact, or the file in it.
        key: public P-256 key, PEM.

    Returns:
        The artifact, and its signed verdict; None if it has none.

    Raises:
        BadArtifact: there is no signature of this key, or a file is altered, missing or new; names
            it.
        GateFailed: the verdict did not pass.
        BadInput: the key cannot be used.
        MissingRequirement: the packages for signatures are not installed.
    """
    if not exists(path):
        raise BadArtifact(f"no artifact at {path}")
    directory = path if is_folder(path) else path.parent
    signed = signed_digests(directory, (key,))
    if signed is None:
        there = (directory / SIGNATURE_NAME).exists()
        raise BadArtifact(
            f"{directory} is signed by another key than {key}"
            if there
            else f"no {SIGNATURE_NAME} in {directory}: it is not signed",
            hint="name the public key of whoever signed it" if there else "sign it first",
        )
    present = _files(directory) - {SIGNATURE_NAME}
    for name in sorted(signed.keys() | present):
        problem = (
            "is missing"
            if name not in present
            else "was added after it was signed"
            if name not in signed
            else "was altered after it was signed"
            if file_sha256(directory / name) != signed[name]
            else None
        )
        if problem:
            raise BadArtifact(f"{directory / name} {problem}", hint=_SIGN_AGAIN)
    artifact = read_artifact(path, trust=Trust((key,), required=True))
    if VERDICT_NAME not in signed:
        return artifact, None
    verdict = read_verdict(directory)
    if verdict_sha256(verdict) != signed[VERDICT_NAME]:  # replaced since it was hashed
        raise BadArtifact(
            f"{directory / VERDICT_NAME} was altered after it was signed", hint=_SIGN_AGAIN
        )
    check_binding(artifact, verdict)
    _check_statement(artifact, verdict, key)
    return artifact, verdict


def _is_bill_of(artifact: Artifact, name: str) -> bool:
    """Whether a file in the folder is a CycloneDX bill of materials of ``artifact`` as it is."""
    path = artifact.directory / name
    if path.is_symlink():
        return False
    try:
        bill = parse_json(read_file(path, MOST_JSON))
        subject = bill["metadata"]["component"]["bom-ref"]
        return bool(bill["bomFormat"] == "CycloneDX" and subject == artifact.manifest.file_sha256)
    except (BadInput, KeyError, TypeError, ValueError):
        return False


def _statement(artifact: Artifact, verdict: Verdict) -> dict[str, Any]:
    """The verdict as an in-toto test result."""
    manifest = artifact.manifest
    return {
        "_type": STATEMENT,
        "subject": [{"name": manifest.file, "digest": {"sha256": manifest.file_sha256}}],
        "predicateType": _PREDICATE,
        "predicate": {
            "result": "PASSED",  # `check_binding` lets no other through
            "configuration": [
                {"name": MANIFEST_NAME, "digest": {"sha256": verdict.manifest_sha256}},
                {"name": manifest.weights.source, "digest": {"sha256": verdict.weights_sha256}},
            ],
            "passedTests": ["parity", "batch-integrity"],
            "failedTests": [],
            "verdict": verdict.model_dump(mode="json"),
        },
    }


def _check_statement(artifact: Artifact, verdict: Verdict, key: Path) -> None:
    path = artifact.directory / STATEMENT_NAME
    public = public_key(key)
    data = read_file(path, MOST_SIGNED, BadArtifact)
    try:
        payload = signed_payload(parse_json(data), (public,))
        stated = None if payload is None else parse_json(payload)
    except (KeyError, TypeError, ValueError) as exc:
        raise BadArtifact(
            f"{path} is not a signed statement: {first_line(exc)}", hint=_SIGN_AGAIN
        ) from exc
    if stated != _statement(artifact, verdict):
        what = "is signed by another key" if stated is None else "states another verdict"
        raise BadArtifact(f"{path} {what}", hint=_SIGN_AGAIN)


def _files(directory: Path) -> set[str]:
    """Everything in ``directory``, by its path from there."""
    return {
        each.relative_to(directory).as_posix()
        for each in directory.rglob("*")
        if each.is_symlink() or not each.is_dir()
    }
