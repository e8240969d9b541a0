"""The names of ImageNet's 1,000 classes, one a line in the order of the logits, as torchvision
spells them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_name("imagenet_classes.txt")


@cache
def imagenet_class_names() -> tuple[str, ...]:
    """The 1,000 names."""
    return tuple(_FILE.read_text("utf-8").splitlines())
