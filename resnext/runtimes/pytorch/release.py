"""Which releases of PyTorch the toolkit exports with."""

from __future__ import annotations

import re

from resnext.errors import MissingRequirement

#: The oldest that was seen to work, as setup.cfg promises it; ``make test-oldest`` runs on it.
OLDEST = (2, 11)


def too_old() -> str | None:
    """One line, what and what to do, if PyTorch is older than `OLDEST`; imports PyTorch."""
    import torch

    found = re.match(r"(\d+)\.(\d+)", str(torch.__version__))
    if found is None or (int(found[1]), int(found[2])) >= OLDEST:
        return None
    oldest = ".".join(map(str, OLDEST))
    return (
        f"PyTorch {torch.__version__} is older than {oldest}, the oldest to export with: pip"
        f" install 'torch>={oldest}'"
    )


def refuse_older_torch() -> None:
    """Check that PyTorch is not older than `OLDEST`.

    Raises:
        MissingRequirement: it is; says what to install.
    """
    if reason := too_old():
        raise MissingRequirement(reason)
