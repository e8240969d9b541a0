"""Which tiles are worth trying for a layer; the first is the one to take untried."""

from __future__ import annotations

from typing import NamedTuple

from .grouped_conv3x3 import WIDTHS, ConvTile
from .pointwise import ProductTile

#: Programs that keep a large GPU busy: two for each of an H100's 132 multiprocessors. A product
#: needs one: smaller tiles read more than they gain.
_BUSY, _BUSY_PRODUCT = 264, 132
#: By merged width: pixels of a convolution's tile, warps, stages.
_CONVS = {
    16: ((64, 4, 1), (64, 4, 2)),
    32: ((64, 4, 1), (64, 4, 2), (128, 8, 1)),
    64: ((16, 4, 1), (32, 8, 1)),
}
#: Pixels and output channels of a product's tile, input channels of a step, warps, stages; large
#: tiles first.
_PRODUCTS = (
    ProductTile(128, 128, 64, 8, 3),
    ProductTile(64, 64, 64, 4, 4),
    ProductTile(64, 32, 64, 4, 5),
    ProductTile(64, 16, 128, 4, 4),
)


class ConvShape(NamedTuple):
    """A grouped 3x3 convolution.

    Attributes:
        batch: images.
        channels: input and output channels.
        width: channels of a group before merging.
        height, columns: of the input.
        stride: 1 or 2.
    """

    batch: int
    channels: int
    width: int
    height: int
    columns: int
    stride: int

    @property
    def out_height(self) -> int:
        """Output rows."""
        return (self.height - 1) // self.stride + 1

    @property
    def out_columns(self) -> int:
        """Output columns."""
        return (self.columns - 1) // self.stride + 1


class ProductShape(NamedTuple):
    """A 1x1 convolution.

    Attributes:
        pixels: of all images.
        inputs: input channels.
        outputs: output channels.
        projected: channels of the block's input, if the shortcut is a projection, else 0.
        shortcut: whether a shortcut is added as it is.
        stride: of the projection.
    """

    pixels: int
    inputs: int
    outputs: int
    projected: int = 0
    shortcut: bool = False
    stride: int = 1


class ConvChoice(NamedTuple):
    """A width to merge groups to, and a tile."""

    width: int
    tile: ConvTile


def widths(channels: int, width: int) -> tuple[int, ...]:
    """Widths that groups of ``width`` channels can be merged to, of those that the kernel takes."""
    return tuple(
        wide for wide in WIDTHS if wide >= width and wide % width == 0 and channels % wide == 0
    )


def conv_choices(shape: ConvShape) -> list[ConvChoice]:
    """What to try for a grouped convolution; empty if the kernel does not take it."""
    choices = []
    for width in sorted(widths(shape.channels, shape.width), key=lambda wide: abs(wide - 32)):
        if width > max(32, shape.width):  # twice the products, and too many registers
            continue
        for pixels, warps, stages in _CONVS[width]:
            columns = min(_power(shape.out_columns), pixels)
            images = max(min(pixels // columns, _power(shape.batch)), -(-16 // columns))
            if warps > 4 and images * columns < pixels:  # too few pixels for the warps
                continue
            programs = (
                -(-shape.batch // images)
                * -(-shape.out_columns // columns)
                * (shape.channels // width)
            )
            # As many programs as run at a time, not a few more.
            strips = min(shape.out_height, max(1, _BUSY * 64 // width // programs))
            rows = -(-shape.out_height // strips)
            if rows == 1 and stages > 1:  # nothing to be ahead of
                continue
            # At least 4 channels, 8 bytes, for each thread.
            warps = min(warps, max(1, images * columns * width // 128))
            choices.append(ConvChoice(width, ConvTile(images, columns, rows, warps, stages)))
    return list(dict.fromkeys(choices))


def product_choices(shape: ProductShape) -> list[ProductTile]:
    """What to try for a product: the largest tile that keeps the GPU busy, and its neighbors."""
    most = max(16, _power(shape.outputs)), max(16, _power(shape.inputs))
    cut = [
        tile._replace(outputs=min(tile.outputs, most[0]), inputs=min(tile.inputs, most[1]))
        for tile in _PRODUCTS
    ]
    fitting = list(dict.fromkeys(cut))
    first = next(
        (
            index
            for index, tile in enumerate(fitting)
            if -(-shape.pixels // tile.pixels) * -(-shape.outputs // tile.outputs) >= _BUSY_PRODUCT
        ),
        len(fitting) - 1,
    )
    near = (first, first + 1, first - 1)
    return [fitting[index] for index in near if 0 <= index < len(fitting)]


def _power(number: int) -> int:
    """The least power of two of at least ``number``."""
    return 1 << (number - 1).bit_length()
