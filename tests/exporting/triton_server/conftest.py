from __future__ import annotations

import pytest

from fakes.servers import triton_server
from resnext_export.triton.environment import Installation


@pytest.fixture(scope="session")
def installation() -> Installation:
    return triton_server()
