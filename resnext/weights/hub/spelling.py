"""How names of published weights are spelled; nothing is imported."""

from __future__ import annotations

TORCHVISION, TIMM, HF = "torchvision:", "timm:", "hf:"


def is_named(spec: str) -> bool:
    """Whether ``spec`` is a name of published weights."""
    return spec.startswith((TORCHVISION, TIMM, HF))


def pinned(spec: str, revision: str | None) -> str:
    """``spec`` at that commit if it names a repository; others as they are."""
    if revision is None or not spec.startswith((TIMM, HF)):
        return spec
    return f"{spec.partition('@')[0]}@{revision}"
