"""What engines and packages share: only some machines load them, and others make them again."""

from __future__ import annotations

from resnext.artifact.manifest import Manifest
from resnext.errors import MissingRequirement
from resnext.findings import Finding

#: Codes of findings that an artifact made again, on or for this machine, does not have.
MADE_AGAIN = frozenset({"other-gpu", "other-version", "other-platform", "other-processor"})


def again(manifest: Manifest) -> str:
    """How to make the artifact again, in words."""
    if manifest.request is None:
        return "export it again on this machine"
    return "rebuild it here, from the request in its manifest"


def refuse(what: str, found: tuple[Finding, ...]) -> None:
    """Check that nothing was found.

    Args:
        what: kind of artifact, for example ``engine``.
        found: why this machine cannot load it.

    Raises:
        MissingRequirement: every finding, and every hint once.
    """
    if found:
        raise MissingRequirement(
            f"this machine cannot load the {what}: {'; '.join(one.message for one in found)}",
            hint="; ".join(dict.fromkeys(one.hint for one in found if one.hint)),
        )
