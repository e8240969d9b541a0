"""Everything in this folder needs a CUDA device, and is skipped where the driver shows none."""

from __future__ import annotations

from pathlib import Path

import pytest

from resnext.cuda_driver import probe_driver


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    driver = probe_driver()
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if driver.problem is not None:
                item.add_marker(pytest.mark.skip(reason=f"needs a CUDA device: {driver.problem}"))
