"""Signatures over an artifact's folder: OpenSSF Model Signing bundles, read with one key.

The bundle (``model.sig``) is written by the package model-signing; its payload lists the sha256 of
every file. It is verified here instead of with that package because an artifact is held against
the signed digests while it is read: the bytes that are hashed are the bytes that are used. The
envelope is DSSE (https://github.com/secure-systems-lab/dsse), its signature ECDSA on P-256.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from resnext.errors import BadArtifact, BadInput, MissingRequirement, first_line
from resnext.readers.files import MIB, exists, read_file
from resnext.readers.strict_json import parse_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )

#: The signature of a folder, by model-signing's own convention.
SIGNATURE_NAME = "model.sig"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"

_MOST_KEY = MIB
#: Most bytes of a bundle or statement, and most signatures in one: each is tried with each key.
MOST_SIGNED = 16 * MIB
_MOST_SIGNATURES = 16
_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PREDICATE = "https://model_signing/signature/v1.0"
_SIGN_AGAIN = "sign the artifact again"
_MAKE_KEY = (
    "make one: openssl ecparam -name prime256v1 -genkey -noout -out k.pem; openssl ec -in k.pem"
    " -pubout -out k.pub"
)

Key = TypeVar("Key")


def signed_digests(directory: Path, keys: Sequence[Path]) -> dict[str, str] | None:
    """The sha256 of each file in ``directory``, as signed by one of ``keys``; the files themselves
    are not looked at.

    Args:
        directory: folder with a ``model.sig``.
        keys: public keys, PEM.

    Returns:
        Digests by name; None if there is no signature, or it is of another key.

    Raises:
        BadArtifact: the signature is damaged.
        BadInput: a key cannot be used.
        MissingRequirement: the package cryptography is not installed.
    """
    path = directory / SIGNATURE_NAME
    publics = [public_key(key) for key in keys]
    if not exists(path):
        return None
    data = read_file(path, MOST_SIGNED, BadArtifact)
    try:
        bundle = parse_json(data)
        if bundle["mediaType"] != _BUNDLE:
            raise ValueError(f"its media type is {bundle['mediaType']}")
        payload = signed_payload(bundle["dsseEnvelope"], publics)
        if payload is None:
            return None
        statement = parse_json(payload)
        if (statement["_type"], statement["predicateType"]) != (STATEMENT, _PREDICATE):
            raise ValueError(f"it states {statement['predicateType']}")
        resources = statement["predicate"]["resources"]
        if {each["algorithm"] for each in resources} != {"sha256"}:
            raise ValueError("its digests are not sha256")
        digests = {str(each["name"]): str(each["digest"]) for each in resources}
    except KeyError as exc:
        raise _damaged(path, f"it lacks {exc}") from exc
    except (TypeError, ValueError) as exc:
        raise _damaged(path, first_line(exc)) from exc
    if len(digests) != len(resources):
        raise _damaged(path, "it names a file twice")
    return digests


def signed_payload(
    envelope: Mapping[str, Any], keys: Sequence[EllipticCurvePublicKey]
) -> bytes | None:
    """What one of ``keys`` signed in a DSSE envelope; None if none of them did.

    Raises:
        KeyError, TypeError, ValueError: it is not an envelope of an in-toto statement.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256

    if envelope["payloadType"] != PAYLOAD_TYPE:
        raise ValueError(f"its payload is {envelope['payloadType']}")
    payload, signatures = _decoded(envelope["payload"]), envelope["signatures"]
    if len(signatures) > _MOST_SIGNATURES:
        raise ValueError(f"it has {len(signatures)} signatures, at most {_MOST_SIGNATURES} count")
    encoded = _encoded(payload)
    for signature in signatures:
        for key in keys:
            try:
                key.verify(_decoded(signature["sig"]), encoded, ECDSA(SHA256()))
            except InvalidSignature:
                continue
            return payload
    return None


def signed_envelope(payload: bytes, key: EllipticCurvePrivateKey) -> dict[str, Any]:
    """A DSSE envelope of an in-toto statement, signed with ``key``."""
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256

    signature = key.sign(_encoded(payload), ECDSA(SHA256()))
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
    }


def public_key(path: Path) -> EllipticCurvePublicKey:
    """Read a public P-256 key, PEM.

    Raises:
        BadInput: it cannot be read, or is another kind of key.
        MissingRequirement: the package cryptography is not installed.
    """
    serialization = _serialization()
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    key = _loaded(path, "public key", serialization.load_pem_public_key)
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise BadInput(f"{path} is not a P-256 key", hint=_MAKE_KEY)
    return key


def private_key(path: Path) -> EllipticCurvePrivateKey:
    """Read a private P-256 key, PEM, without a password.

    Raises:
        BadInput: it cannot be read, or is another kind of key.
        MissingRequirement: the package cryptography is not installed.
    """
    serialization = _serialization()
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    key = _loaded(
        path,
        "private key without a password",
        lambda data: serialization.load_pem_private_key(data, password=None),
    )
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise BadInput(f"{path} is not a P-256 key", hint=_MAKE_KEY)
    return key


def not_installed(exc: ModuleNotFoundError) -> MissingRequirement:
    """The error for a missing package of the extra ``sign``."""
    return MissingRequirement(
        f"signatures need the Python package {exc.name}",
        hint="pip install 'model-signing>=1.1.1' pyopenssl",
    )


def _serialization() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
    except ModuleNotFoundError as exc:
        raise not_installed(exc) from exc
    return serialization


def _loaded(path: Path, kind: str, load: Callable[[bytes], Key]) -> Key:
    data = read_file(path, _MOST_KEY)
    try:
        return load(data)
    except Exception as exc:  # cryptography has several for what is no key, or has a password
        raise BadInput(f"{path} is not a {kind}, PEM", hint=_MAKE_KEY) from exc


def _encoded(payload: bytes) -> bytes:
    """The bytes that a signature is over: DSSE's pre-authentication encoding."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as exc:
        raise ValueError(f"not base64: {exc}") from exc


def _damaged(path: Path, why: str) -> BadArtifact:
    return BadArtifact(f"{path} is not a signature: {why}", hint=_SIGN_AGAIN)
