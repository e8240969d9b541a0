"""Common to engines and packages, which only some machines can load."""

from __future__ import annotations

from resnext.artifact.manifest import Manifest
from resnext.errors import MissingRequirement
from resnext.findings import Finding

#: Codes of findings that a rebuild on or for this machine solves.
MADE_AGAIN = frozenset({"other-gpu", "other-version", "other-platform", "other-processor"})


def again(manifest: Manifest) -> str:
    """How to make the artifact again, as a hint."""
    if manifest.request is None:
        return "export it again on this machine"
    return "rebuild it here, from the request in its manifest"


def refuse(kind: str, findings: tuple[Finding, ...]) -> None:
    """Check that there are no findings.

    Args:
        kind: kind of artifact, for example ``engine``.
        findings: why this machine cannot load it.

    Raises:
        MissingRequirement: there are; lists all findings, and each hint once.
    """
    if findings:
        raise MissingRequirement(
            f"this machine cannot load the {kind}: {'; '.join(one.message for one in findings)}",
            hint="; ".join(dict.fromkeys(one.hint for one in findings if one.hint)),
        )
