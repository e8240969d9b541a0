"""The same bottleneck block in other shapes: the three forms of the paper's Figure 3, and merged
groups.

Form (a) sums C whole paths, form (b) concatenates C half paths in front of one 1x1 convolution, and
form (c) is the grouped convolution that `resnext.network.model.Bottleneck` builds. Merging gives
form (c) fewer, wider groups: the 3x3 weights become block-diagonal, with explicit zeros, for
hardware that runs wide groups better than narrow ones.

Every function returns a new module that shares no memory with its argument and keeps its dtype,
device, train or eval mode, ``requires_grad`` and batch-norm settings. Weights are copied, never
recomputed, so a round trip gives the same bits; outputs agree up to the order in which sums are
taken, as long as activations are finite.

Source: Xie et al., Aggregated Residual Transformations for Deep Neural Networks, arXiv 1611.05431,
    Figure 3.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeAlias, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from resnext.errors import BadInput, UsageError

from .config import ResNeXtConfig
from .layers import Layer, layers
from .model import Bottleneck, ResNeXt

#: A block in any of the three forms.
Block: TypeAlias = "Bottleneck | SummedPaths | ConcatenatedPaths"
_T = TypeVar("_T")
_M = TypeVar("_M", bound=nn.Module)


def summed_from_block(block: Block) -> SummedPaths:
    """Figure 3 (a): the block as a sum of C paths of 1x1, 3x3 and 1x1. Raises as
    `grouped_from_block`.
    """
    if isinstance(block, SummedPaths):
        return copy.deepcopy(block)
    block = grouped_from_block(block)
    paths = _half_paths(block)
    for path, expand in zip(paths, block.conv3.weight.chunk(len(paths), dim=1), strict=True):
        path.conv3 = _conv(block.conv3, expand)
    return _with_mode_of(block, SummedPaths(paths, block.bn3, block.downsample))


def concatenated_from_block(block: Block) -> ConcatenatedPaths:
    """Figure 3 (b): the block as C paths of 1x1 and 3x3 before one 1x1. Raises as
    `grouped_from_block`.
    """
    if isinstance(block, ConcatenatedPaths):
        return copy.deepcopy(block)
    block = grouped_from_block(block)
    return _with_mode_of(
        block, ConcatenatedPaths(_half_paths(block), block.conv3, block.bn3, block.downsample)
    )


def grouped_from_block(block: Block) -> Bottleneck:
    """Figure 3 (c): the block with one convolution of C groups.

    Raises:
        BadInput: the paths of ``block`` differ in width, mode, batches tracked or batch-norm
            settings.
    """
    if isinstance(block, Bottleneck):
        return copy.deepcopy(block)
    paths = cast("list[Transformation]", list(block.paths))
    first = paths[0]
    inner = len(paths) * _agreed("width", (path.conv2.in_channels for path in paths))
    with torch.device("meta"):  # for its shape alone: every layer is replaced below
        grouped = Bottleneck(
            first.conv1.in_channels,
            inner,
            block.bn3.num_features,
            len(paths),
            first.conv2.stride[0],
        )
    grouped.conv1 = _conv(first.conv1, torch.cat([path.conv1.weight for path in paths]))
    grouped.bn1 = _joined_norm([path.bn1 for path in paths])
    grouped.conv2 = _conv(first.conv2, torch.cat([path.conv2.weight for path in paths]), len(paths))
    grouped.bn2 = _joined_norm([path.bn2 for path in paths])
    if isinstance(block, SummedPaths):
        expand = [cast("nn.Conv2d", path.conv3) for path in paths]
        grouped.conv3 = _conv(expand[0], torch.cat([conv.weight for conv in expand], dim=1))
    else:
        grouped.conv3 = copy.deepcopy(block.conv3)
    grouped.bn3 = copy.deepcopy(block.bn3)
    grouped.downsample = copy.deepcopy(block.downsample)
    return _with_mode_of(block, grouped)


def merge_groups(block: Bottleneck, factor: int) -> Bottleneck:
    """The block with every ``factor`` neighboring groups merged into one wider group; the same
    function.

    The 3x3 weights grow from (C·d) x d x 3 x 3 to (C·d) x (factor·d) x 3 x 3; new values are zero.
    Meant for inference: training would move the zeros.

    Raises:
        UsageError: ``factor`` does not divide the number of groups; lists those that do.
    """
    groups = block.conv2.groups
    _check_factor(factor, groups, "groups of this block")
    diagonal = torch.unflatten(block.conv2.weight.detach(), 0, (groups // factor, factor, -1))
    weight = diagonal.new_zeros(*diagonal.shape[:3], factor, *diagonal.shape[3:])
    weight.diagonal(dim1=1, dim2=3).copy_(diagonal.movedim(1, -1))
    merged = copy.deepcopy(block)
    merged.conv2 = _conv(block.conv2, weight.flatten(3, 4).flatten(0, 2), groups // factor)
    return merged


def split_groups(block: Bottleneck, factor: int) -> Bottleneck:
    """The block with every group split into ``factor`` groups: undoes `merge_groups`.

    Raises:
        UsageError: ``factor`` does not divide the width of a group; lists those that do.
        BadInput: the weights between the new groups are not all zero, so the split block would
            compute another function.
    """
    groups = block.conv2.groups
    _check_factor(factor, block.conv2.in_channels // groups, "channels of a group of this block")
    weight = torch.unflatten(block.conv2.weight.detach(), 1, (factor, -1))
    weight = torch.unflatten(weight, 0, (groups, factor, -1))
    between = weight.clone()
    between.diagonal(dim1=1, dim2=3).zero_()
    if count := int(between.count_nonzero()):
        raise BadInput(
            f"cannot split {groups} groups into {groups * factor}: {count} weights between the new"
            f" groups are not zero (largest {float(between.abs().max()):g}); split only what was"
            " merged, and not trained since"
        )
    split = copy.deepcopy(block)
    diagonal = weight.diagonal(dim1=1, dim2=3).movedim(-1, 1)
    split.conv2 = _conv(block.conv2, diagonal.flatten(0, 2), groups * factor)
    return split


def merge_model_groups(model: _M, least_width: int) -> _M:
    """The model with the groups of every 3x3 at least ``least_width`` channels wide; the same
    function.

    Each block gets the smallest factor that divides its groups and reaches ``least_width``, or one
    group if none does. The network's ``config`` remains that of the unmerged network, since both
    compute the same function.

    Args:
        model: a network, or any other module that holds blocks; for one block alone there is
            `merge_groups`.
        least_width: minimum input channels per group.

    Raises:
        UsageError: ``least_width`` is not an integer of at least 1.
    """
    _check_least_width(least_width)

    def merged(block: Bottleneck) -> Bottleneck:
        groups, channels = block.conv2.groups, block.conv2.in_channels
        return merge_groups(block, _least_factor(groups, channels // groups, least_width))

    return _with_each_block(model, merged)


def split_model_groups(model: ResNeXt) -> ResNeXt:
    """The model with the number of groups in its ``config``: undoes `merge_model_groups`.

    Raises:
        BadInput: a block's weights between groups are not all zero.
    """
    return _with_each_block(
        model, lambda block: split_groups(block, model.config.cardinality // block.conv2.groups)
    )


def fold_batch_norms(model: _M) -> _M:
    """The model with each batch norm folded into the convolution before it; for inference, in eval
    mode only.

    Each batch norm is replaced by an identity, so layers keep their names.
    """
    new = copy.deepcopy(model)
    for module in list(new.modules()):
        for (conv_name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    return new


def merged_layers(config: ResNeXtConfig, least_width: int) -> Iterator[Layer]:
    """Every weighted layer of ``config`` as `merge_model_groups` leaves it; zeros count as weights.

    Raises:
        UsageError: ``least_width`` is not an integer of at least 1.
    """
    _check_least_width(least_width)
    for layer in layers(config):
        grouped = layer.name.endswith(".conv2")
        factor = (
            _least_factor(layer.groups, layer.inputs // layer.groups, least_width) if grouped else 1
        )
        yield replace(layer, groups=layer.groups // factor)


def merged_macs(config: ResNeXtConfig, least_width: int) -> int:
    """Multiply-accumulates of one image after `merge_model_groups`, those with zeros included."""
    return sum(layer.macs for layer in merged_layers(config, least_width))


class Transformation(nn.Module):
    """One of the C transformations: 1x1 (in_channels to d), 3x3 (d to d, strided), each with its
    batch norm and ReLU.

    In form (a) ``conv3``, a 1x1 (d to out_channels), follows; in form (b) it is None.
    """

    conv3: nn.Conv2d | None

    def __init__(
        self, conv1: nn.Conv2d, bn1: nn.BatchNorm2d, conv2: nn.Conv2d, bn2: nn.BatchNorm2d
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv1, bn1
        self.conv2, self.bn2 = conv2, bn2
        self.conv3 = None
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (N x in_channels x H x W) to N x (d or out_channels) x H/stride x W/stride."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        if self.conv3 is not None:
            x = self.conv3(x)
        return x


class SummedPaths(nn.Module):
    """Figure 3 (a): C whole paths; ``bn3`` comes after their sum and before the shortcut, as in
    the paper.
    """

    def __init__(
        self, paths: Sequence[Transformation], bn3: nn.BatchNorm2d, downsample: nn.Sequential | None
    ) -> None:
        super().__init__()
        self.paths = nn.ModuleList(paths)
        self.bn3, self.downsample = bn3, downsample
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (N x in_channels x H x W) to N x out_channels x H/stride x W/stride."""
        shortcut = x if self.downsample is None else self.downsample(x)
        first, *rest = self.paths
        y = first(x)
        for path in rest:
            y = y + path(x)
        out: Tensor = self.relu(self.bn3(y) + shortcut)
        return out


class ConcatenatedPaths(nn.Module):
    """Figure 3 (b): C half paths, concatenated to C·d channels, and one 1x1 ``conv3`` to the output
    channels.
    """

    def __init__(
        self,
        paths: Sequence[Transformation],
        conv3: nn.Conv2d,
        bn3: nn.BatchNorm2d,
        downsample: nn.Sequential | None,
    ) -> None:
        super().__init__()
        self.paths = nn.ModuleList(paths)
        self.conv3, self.bn3, self.downsample = conv3, bn3, downsample
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (N x in_channels x H x W) to N x out_channels x H/stride x W/stride."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = torch.cat([path(x) for path in self.paths], dim=1)
        out: Tensor = self.relu(self.bn3(self.conv3(y)) + shortcut)
        return out


def _half_paths(block: Bottleneck) -> list[Transformation]:
    width = block.conv2.in_channels // block.conv2.groups
    cuts = [slice(start, start + width) for start in range(0, block.conv2.in_channels, width)]
    return [
        Transformation(
            _conv(block.conv1, block.conv1.weight[cut]),
            _norm_cut(block.bn1, cut),
            _conv(block.conv2, block.conv2.weight[cut]),
            _norm_cut(block.bn2, cut),
        )
        for cut in cuts
    ]


def _conv(like: nn.Conv2d, weight: Tensor, groups: int = 1) -> nn.Conv2d:
    """A convolution of ``weight``; ``like``'s bias, the remainder of a folded batch norm, stays
    with its output channels.
    """
    outputs, inputs, kernel, _ = weight.shape
    if like.bias is not None and outputs != like.out_channels:
        raise BadInput("this block's batch norms are folded; change its form first, then fold them")
    conv = nn.Conv2d(
        inputs * groups,
        outputs,
        kernel,
        like.stride[0],
        kernel // 2,
        groups=groups,
        bias=False,
        device="meta",
    )
    conv.weight = nn.Parameter(weight.detach().clone(), requires_grad=like.weight.requires_grad)
    if like.bias is not None:
        conv.bias = nn.Parameter(like.bias.detach().clone(), requires_grad=like.bias.requires_grad)
    return conv.train(like.training)


def _norm(like: nn.BatchNorm2d, state: Mapping[str, Tensor]) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(state["weight"].numel(), like.eps, like.momentum, device="meta")
    norm.load_state_dict({name: value.clone() for name, value in state.items()}, assign=True)
    return norm.requires_grad_(like.weight.requires_grad).train(like.training)


def _norm_cut(norm: nn.BatchNorm2d, cut: slice) -> nn.BatchNorm2d:
    # The batch counter is a scalar: every path has its own copy of the whole.
    return _norm(
        norm,
        {name: value[cut] if value.dim() else value for name, value in norm.state_dict().items()},
    )


def _joined_norm(norms: Sequence[nn.BatchNorm2d]) -> nn.BatchNorm2d:
    states = [norm.state_dict() for norm in norms]
    _agreed("mode (train or eval)", (norm.training for norm in norms))
    _agreed("batch-norm eps and momentum", ((norm.eps, norm.momentum) for norm in norms))
    _agreed("batches tracked", (int(state["num_batches_tracked"]) for state in states))
    return _norm(
        norms[0],
        {k: torch.cat([s[k] for s in states]) if v.dim() else v for k, v in states[0].items()},
    )


def _agreed(what: str, values: Iterable[_T]) -> _T:
    first, *others = dict.fromkeys(values)
    if others:
        raise BadInput(
            f"the paths differ in {what} ({first} and {others[0]}): no grouped block computes the"
            " same"
        )
    return first


def _with_mode_of(block: Block, new: _M) -> _M:
    # A layer with parameters keeps its own mode, which may differ from its block's (a frozen batch
    # norm).
    for module in new.modules():
        if not any(True for _ in module.parameters(recurse=False)):
            module.training = block.training
    return new


def _with_each_block(model: _M, change: Callable[[Bottleneck], Bottleneck]) -> _M:
    new = copy.deepcopy(model)
    for name, block in model.named_modules():
        if isinstance(block, Bottleneck):
            new.set_submodule(name, change(block))
    return new


def _least_factor(groups: int, width: int, least_width: int) -> int:
    reaching = (
        factor
        for factor in range(1, groups)
        if groups % factor == 0 and factor * width >= least_width
    )
    return next(reaching, groups)


def _check_factor(factor: object, number: int, what: str) -> None:
    allowed = [divisor for divisor in range(1, number + 1) if number % divisor == 0]
    if type(factor) is not int or factor not in allowed:
        raise UsageError(
            f"factor must divide the {number} {what}: one of {', '.join(map(str, allowed))}; got"
            f" {factor!r}"
        )


def _check_least_width(least_width: object) -> None:
    if type(least_width) is not int or least_width < 1:
        raise UsageError(f"least_width must be an integer of at least 1, got {least_width!r}")
