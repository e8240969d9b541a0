"""How large the tensors of a file may be: a small multiple of what its manifest's network has.

A graph can ask a runtime for gigabytes with a few bytes, and some of it while the file is opened.
So the shapes are inferred first, at batch 1 and at a large batch: if both are within the limits for
each image, then so is every batch between.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

from resnext.network.config import ResNeXtConfig
from resnext.network.layers import layers
from resnext.readers.shapes import MOST_READ, TensorShape

from .manifest import Manifest
from .specs import BatchRange

#: Larger than batches are in practice, and prime: no product of a graph's own sizes is equal to it.
LARGE_BATCH = 65_537
#: Times the values of the largest activation, which is the largest tensor of any export; times
#: those of all activations, where an int8 IR has 10, and of all weights, where it has 3; tensors
#: for each layer, where it has 31.
_TENSOR, _TOTAL, _WEIGHTS, _TENSORS = 4, 16, 8, 128
#: Values that no machine is short of, for small networks.
_HARMLESS, _HARMLESS_TOTAL = 1 << 24, 1 << 26
#: Tensors of a network that is not known; the deepest classifiers have some thousands.
_MOST_TENSORS = 50_000
#: Of a value in memory, where a layer has at least two tensors: what it reads and what it writes.
_BYTES = 8


def check_sizes(
    shapes: Callable[[int], Iterable[TensorShape]], stored: Sequence[int], manifest: Manifest
) -> None:
    """Check the tensors that a file's graph computes.

    Args:
        shapes: the tensors at a batch size.
        stored: number of values of each tensor in the file: a dequantized weight is as large as the
            stored one, whatever the activations.
        manifest: names the network and its batch sizes.

    Raises:
        ValueError: one tensor, all together, or their number is more than an export of the network
            can have; names node, shape and limit. Also what ``shapes`` raises.
    """
    if manifest.foreign:
        check_growth(shapes, manifest.batch)
        return
    config, batch = manifest.network, manifest.batch
    sizes = [layer.outputs * layer.out_size[0] * layer.out_size[1] for layer in layers(config)]
    image = config.in_channels * config.input_size[0] * config.input_size[1]
    largest, total, patches = max(image, *sizes), image + sum(sizes), _most_patches(config)
    # Nor is a manifest believed that names a network which nothing here could run.
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _BYTES
    for images in (batch.min,) if batch.static else (1, LARGE_BATCH):
        most = max(_HARMLESS, _TENSOR * largest * images, max(stored, default=0))
        at = f"for this network at batch {images}"
        if images != LARGE_BATCH and most > memory:
            most, at = memory, f"{at} on this machine"
        most_patches = max(_HARMLESS, _TENSOR * patches)
        left = max(_HARMLESS_TOTAL, _TOTAL * total * images) + _WEIGHTS * sum(stored)
        for count, tensor in enumerate(shapes(images)):
            shape = "x".join(map(str, tensor.shape))
            if tensor.values > most:
                raise ValueError(
                    f"{tensor.title} makes a tensor of {shape}, {tensor.values} values; at most"
                    f" {most} are accepted {at}"
                )
            if tensor.patches > most_patches:
                raise ValueError(
                    f"{tensor.title} multiplies patches of {tensor.patches} values for its output"
                    f" of {shape}; at most {most_patches} are accepted for this network"
                )
            left -= tensor.values
            if left < 0:
                raise ValueError(
                    f"{tensor.title} makes a tensor of {shape}, and all tensors up to it have more"
                    f" values than are accepted {at}"
                )
            if count > _TENSORS * len(sizes):
                raise ValueError(
                    f"it computes more than {_TENSORS * len(sizes)} tensors, and this network"
                    " needs fewer"
                )


def check_growth(shapes: Callable[[int], Iterable[TensorShape]], batch: BatchRange) -> None:
    """Check the tensors of a graph whose network is not known: at its smallest batch they fit into
    this machine's memory, and each grows with the batch at most as fast as that.

    Args:
        shapes: the tensors at a batch size.
        batch: batch sizes that the file takes.

    Raises:
        ValueError: they do not; names node and shape. Also what ``shapes`` raises.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _BYTES
    left = memory
    smallest: dict[str, int] = {}
    for tensor in shapes(batch.min):
        shape = "x".join(map(str, tensor.shape))
        left -= max(tensor.values, tensor.patches)
        if left < 0:
            raise ValueError(
                f"{tensor.title} makes a tensor of {shape}, and all tensors up to it have more than"
                f" {memory} values, which is what this machine has memory for"
            )
        smallest[tensor.name] = tensor.values
        if len(smallest) > _MOST_TENSORS:
            raise ValueError(f"it computes more than {_MOST_TENSORS} tensors")
    if batch.static:
        return
    for tensor in shapes(LARGE_BATCH):
        # What is computed from a few values while the file is read is not listed.
        values = smallest.get(tensor.name, MOST_READ)
        if tensor.values * batch.min > values * LARGE_BATCH:
            raise ValueError(
                f"{tensor.title} has {values} values at batch {batch.min} and {tensor.values} at"
                f" batch {LARGE_BATCH}: it grows faster than the batch"
            )


def _most_patches(config: ResNeXtConfig) -> int:
    """Values of the patches of the largest convolution, with all groups merged."""
    return max(
        layer.kernel**2 * layer.inputs * layer.out_size[0] * layer.out_size[1]
        for layer in layers(config)
    )
