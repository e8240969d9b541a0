"""Small trained networks that come with the package, with sample images. `train.py` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from resnext.network.config import VARIANTS, ResNeXtConfig

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Shipped:
    """One shipped checkpoint.

    Attributes:
        model: name of its network.
        path: the .safetensors file.
        images: folder of sample test images, named ``<class index>_<class name>.png``.
    """

    model: str
    path: Path
    images: Path

    @property
    def config(self) -> ResNeXtConfig:
        """Its network."""
        return VARIANTS[self.model]


#: Shipped checkpoints by the name that ``--weights`` takes.
SHIPPED: Mapping[str, Shipped] = MappingProxyType(
    {
        "digits": Shipped(
            "resnext11_8x4d_digits",
            _HERE / "digits.safetensors",
            _HERE / "images" / "digits",
        ),
        "fashion-mnist": Shipped(
            "resnext11_8x4d_fashion",
            _HERE / "fashion-mnist.safetensors",
            _HERE / "images" / "fashion-mnist",
        ),
    }
)
