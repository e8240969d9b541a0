from __future__ import annotations

import os

import pytest

from resnext.errors import MissingRequirement
from resnext_export.triton.environment import Installation, required_server


@pytest.fixture(scope="session")
def installation() -> Installation:
    """A Triton server. Where ``RESNEXT_SERVER_TESTS`` is ``required``, its absence is a failure."""
    try:
        return required_server()
    except MissingRequirement as exc:
        if os.environ.get("RESNEXT_SERVER_TESTS") == "required":
            raise
        pytest.skip(str(exc))
