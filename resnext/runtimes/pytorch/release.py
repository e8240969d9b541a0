"""Which releases of PyTorch the toolkit exports with."""

from __future__ import annotations

import re

from resnext.errors import MissingRequirement
from resnext.findings import Finding

#: The oldest release known to work, as setup.cfg promises; ``make test-oldest`` runs on it.
OLDEST = (2, 11)


def too_old() -> Finding | None:
    """A finding if PyTorch is older than `OLDEST`, else None; imports PyTorch."""
    import torch

    numbers = re.match(r"(\d+)\.(\d+)", str(torch.__version__))
    if numbers is None or (int(numbers[1]), int(numbers[2])) >= OLDEST:
        return None
    oldest = ".".join(map(str, OLDEST))
    return Finding(
        "old-torch",
        f"PyTorch {torch.__version__} is older than {oldest}, the oldest to export with",
        f"pip install 'torch>={oldest}'",
    )


def refuse_older_torch() -> None:
    """Check that PyTorch is not older than `OLDEST`.

    Raises:
        MissingRequirement: it is; says what to install.
    """
    if problem := too_old():
        raise MissingRequirement(problem.message, hint=problem.hint)
