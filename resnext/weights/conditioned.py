"""Seeded weights that expose faults as trained ones do: a fault in any layer shows in the logits.

Plain random initialization hides faults: activations shrink or grow with depth, all inputs get
nearly the same logits, and a network with its groups rotated still agrees on top-1. These weights
are conditioned instead:

1. Convolutions are uniform with unit gain; batch-norm scales and shifts differ between channels.
2. One float64 pass over a few seeded images sets each batch norm's running mean and variance to the
   actual statistics of its input, so that every layer outputs values of order one.
3. The classifier is centered and scaled on the same images, so that logits differ between images.

Statistics are rounded to 11 significant bits before the next layer sees them. The result is
therefore the same on every machine, whatever the order of its sums.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from resnext.images.synthetic import seeded_pixels
from resnext.network.config import ResNeXtConfig
from resnext.network.model import Bottleneck, ResNeXt

_CALIBRATION_IMAGES = 24
_CALIBRATION_SIZE = 96  # the last stage of an ImageNet network then has pixels that touch no border
#: Standard deviation of the logits over images.
_LOGIT_SPREAD = 3.0


def seeded_state_dict(config: ResNeXtConfig, seed: int) -> dict[str, Tensor]:
    """Float32 state dict of a conditioned network, determined by ``config`` and ``seed``."""
    with torch.device("meta"):
        model = ResNeXt(config)
    model = model.to_empty(device="cpu").double().eval()
    rng = np.random.Generator(np.random.PCG64(seed))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.copy_(
                    _uniform(rng, module.weight, -1, 1) * float(np.float32((3 / fan_in) ** 0.5))
                )
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(_uniform(rng, module.weight, 0.6, 1.4))
                module.bias.copy_(_uniform(rng, module.bias, -0.3, 0.3))
                assert module.num_batches_tracked is not None
                module.num_batches_tracked.zero_()
        # Damp what each block adds to its shortcut, or activations would grow with the depth of a
        # stage.
        for stage in model.stages:
            blocks = [block for block in stage.modules() if isinstance(block, Bottleneck)]
            for block in blocks:
                block.bn3.weight.mul_(
                    _eleven_bits(torch.tensor(min(1.0, 0.5 / len(blocks) ** 0.5)))
                )
        _condition(model, config)
    state = {
        name: value.float() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    return {name: value.contiguous() for name, value in state.items()}


def _uniform(rng: np.random.Generator, like: Tensor, low: float, high: float) -> Tensor:
    # Uniform floats come straight from the generator's bits: no libm, so no difference between
    # machines.
    values = rng.random(tuple(like.shape), dtype=np.float32)
    return torch.from_numpy(values).double() * (high - low) + low


def _eleven_bits(values: Tensor) -> Tensor:
    mantissa, exponent = torch.frexp(values.double())
    return torch.ldexp(torch.round(mantissa * 2048) / 2048, exponent)


def _condition(model: ResNeXt, config: ResNeXtConfig) -> None:
    def set_statistics(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        assert module.running_mean is not None
        assert module.running_var is not None
        module.running_mean.copy_(_eleven_bits(args[0].mean(dim=(0, 2, 3))))
        module.running_var.copy_(_eleven_bits(args[0].var(dim=(0, 2, 3), unbiased=False) + 1e-3))

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [norm.register_forward_pre_hook(set_statistics) for norm in norms]
    try:
        features = model.features(_calibration_images(config))
    finally:
        for handle in handles:
            handle.remove()
    mean = _eleven_bits(features.mean(dim=0))
    logits = (features - mean) @ model.fc.weight.T
    scale = _eleven_bits(_LOGIT_SPREAD / logits.std())
    weight = (model.fc.weight * scale).float()
    model.fc.weight.copy_(weight)
    model.fc.bias.copy_(_eleven_bits(-(weight.double() @ mean)))


def _calibration_images(config: ResNeXtConfig) -> Tensor:
    height, width = config.input_size
    shrink = max(1.0, min(height, width) / _CALIBRATION_SIZE)
    size = (
        max(config.total_stride, round(height / shrink)),
        max(config.total_stride, round(width / shrink)),
    )
    small = ResNeXtConfig(
        config.depths,
        input_size=size,
        in_channels=config.in_channels,
        stem=config.stem,
        num_classes=1,
    )
    pixels = torch.from_numpy(seeded_pixels(small, _CALIBRATION_IMAGES, seed=2**31))
    return (pixels.permute(0, 3, 1, 2).double() / 255 - 0.45) / 0.25
