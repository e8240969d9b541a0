"""The commands ``resnext-export sign`` and ``resnext-export verify``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from resnext.cli.app import SETTINGS, F, echo, guarded
from resnext.cli.options import json_option
from resnext.cli.sections import SectionedCommand, option_of
from resnext.storage import check_writable, write_text

if TYPE_CHECKING:
    from resnext.artifact.files import Artifact
    from resnext.verify.verdict import Verdict

_SIGN = """\b
Examples:
  openssl ecparam -name prime256v1 -genkey -noout -out k.pem
  openssl ec -in k.pem -pubout -out k.pub
  resnext-parity --artifact out/ --verdict       judge it, so that parity is signed, too
  resnext-export sign out/ --key k.pem
  resnext-export sign out/model.onnx --key k.pem
Needs: pip install 'model-signing>=1.1.1' pyopenssl
"""
_VERIFY = """\b
Examples:
  resnext-export verify out/ --key k.pub
  resnext-export verify out/model.onnx --key k.pub
  model_signing verify key out/ --signature out/model.sig --public_key k.pub
Exit code 0: signed by this key, nothing altered. 4: not signed, or a file differs; names it.
"""


_JSON = "Write file, sha256 and signed verdict as JSON"


def _key(text: str) -> Callable[[F], F]:
    return option_of("Key")(
        "--key", type=click.Path(path_type=Path), required=True, metavar="PEM", help=text
    )


@click.command("sign", cls=SectionedCommand, context_settings=SETTINGS, epilog=_SIGN)
@click.argument("path", type=click.Path(path_type=Path), metavar="DIR")
@_key("Private P-256 key.")
@json_option(_JSON)
@guarded
def sign(path: Path, key: Path, json_path: str | None) -> None:
    """Sign an artifact: an OpenSSF Model Signing bundle over its folder, and its verdict as an
    in-toto statement.
    """
    from resnext.errors import UsageError
    from resnext.verify.signed import sign_artifact

    check_writable(json_path)
    folder = path if path.is_dir() else path.parent
    if json_path not in (None, "-") and folder.resolve() in Path(json_path or "").resolve().parents:
        raise UsageError("`json_path` is in the folder that is signed; write it elsewhere")
    artifact, verdict = sign_artifact(path, key)
    _say(f"signed    {artifact.directory}  (model.sig)", artifact, verdict, json_path)


@click.command("verify", cls=SectionedCommand, context_settings=SETTINGS, epilog=_VERIFY)
@click.argument("path", type=click.Path(path_type=Path), metavar="DIR")
@_key("Public P-256 key.")
@json_option(_JSON)
@guarded
def verify(path: Path, key: Path, json_path: str | None) -> None:
    """Verify an artifact's signature, every file in its folder, and the signed verdict."""
    from resnext.verify.signed import verify_signature

    check_writable(json_path)
    artifact, verdict = verify_signature(path, key)
    _say(f"verified  {artifact.directory}, signed by {key}", artifact, verdict, json_path)


def _say(headline: str, artifact: Artifact, verdict: Verdict | None, json_path: str | None) -> None:
    if json_path is not None:
        facts = {
            "directory": str(artifact.directory),
            "file": artifact.manifest.file,
            "file_sha256": artifact.manifest.file_sha256,
            "verdict": verdict and verdict.model_dump(mode="json"),
        }
        write_text(json_path, json.dumps(facts, indent=2) + "\n")
    if json_path == "-":
        return
    echo(headline)
    echo(f"sha256    {artifact.manifest.file_sha256}  {artifact.manifest.file}")
    if verdict is None:
        click.echo(
            "parity    NOT SIGNED: no verdict; first: resnext-parity --artifact DIR --verdict"
        )
    else:
        click.echo(
            f"parity    max error {verdict.parity.max_error:.1e} of the logits' RMS on"
            f" {verdict.runtime}, {verdict.capability}, {verdict.created}"
        )
