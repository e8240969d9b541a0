"""Package versions that differ between two environments."""

from __future__ import annotations

from collections.abc import Mapping

#: Version in the base's environment and in the new one; None if the package is absent there.
Versions = tuple[str | None, str | None]


def upgrades(base: Mapping[str, str], new: Mapping[str, str]) -> dict[str, Versions]:
    """The packages whose versions differ.

    A build that a library adds to its version once it is imported (``2026.4.1-22982-...``) is no
    difference.

    Args:
        base: versions by distribution.
        new: the same.
    """
    return {
        name: (base.get(name), new.get(name))
        for name in sorted({*base, *new})
        if _release(base.get(name)) != _release(new.get(name))
    }


def describe_upgrades(versions: Mapping[str, Versions]) -> str:
    """All of them in one line, without heading."""
    return ", ".join(
        f"{name} {base or 'absent'} -> {new or 'absent'}" for name, (base, new) in versions.items()
    )


def _release(version: str | None) -> str | None:
    return None if version is None else version.partition("-")[0]
