"""torchvision and timm, importable beside any build of PyTorch.

torchvision's binary operators belong to one build of PyTorch, and its package does not import
without them. Networks and tables need none, so they are declared where they are missing.
"""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch


@cache
def torchvision() -> ModuleType:
    """torchvision, for its networks, transforms and tables; the test is skipped without it."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("torchvision is not installed")
    folder = Path(spec.submodule_search_locations[0])
    operators: Any = torch.ops
    try:
        operators.load_library(folder / "_C.so")
    except OSError:  # built for another PyTorch, or for CUDA
        text = (folder / "_meta_registrations.py").read_text()
        libraries: Any = torch.library
        library = libraries.Library("torchvision", "DEF")
        for first, second in set(
            re.findall(r"torchvision::(\w+)|register_meta\(\"(\w+)\"\)", text)
        ):
            library.define(f"{first or second}(Tensor x) -> Tensor")
        _KEPT.append(library)
    return importlib.import_module("torchvision")


@cache
def timm() -> Any:
    """timm, which imports torchvision; the test is skipped without it."""
    torchvision()
    return pytest.importorskip("timm")


#: A library's declarations go with it.
_KEPT: list[Any] = []
