"""Whether tensors are those of a configuration: names, shapes, element types and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from resnext.errors import BadWeights
from resnext.network.config import VARIANTS, ResNeXtConfig, variant_name

from .config_from_shapes import config_from_shapes

#: Fields that make a variant, whatever its classes and images.
_SHAPE = ("depths", "cardinality", "bottleneck_width", "stem", "stem_channels")


def check_state_dict(
    state: Mapping[str, Tensor], config: ResNeXtConfig, source: str, *, inferred: bool = False
) -> dict[str, Tensor]:
    """Return ``state``, which `refuse_odd_tensors` let pass, as float32 if it fits ``config``.

    Batch counters (``num_batches_tracked``) may be absent, as in old checkpoints.

    Args:
        state: tensors by torchvision's names.
        config: the network.
        source: where they are from, for messages.
        inferred: ``config`` is what some of these tensors look like, and nobody asked for it.

    Raises:
        BadWeights: names the first missing, unexpected, misshapen or non-finite tensors.
    """
    from resnext.network.model import ResNeXt

    with torch.device("meta"):
        expected = ResNeXt(config).state_dict()
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    problems = []
    if missing := [name for name in expected if name not in state and name not in counters]:
        problems.append(listed("missing", missing))
    if unexpected := [name for name in state if name not in expected]:
        problems.append(listed("unexpected", unexpected))
    misshapen = [
        f"{name} (got {tuple(state[name].shape)}, want {tuple(expected[name].shape)})"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    if misshapen:
        problems.append(listed("misshapen", misshapen))
    if problems and inferred:
        raise BadWeights(
            f"the tensors in {source} are nearly those of {described(config)}, but not quite:"
            f" {'; '.join(problems)}",
            hint="export the network with the library that it comes from",
        )
    if problems:
        name = variant_name(config) or "this configuration"
        raise BadWeights(
            f"{source} does not fit {name}: {'; '.join(problems)}. Is `model` (or `num_classes`)"
            f" right?{_actual(state, config)}"
        )
    if odd := [
        name
        for name in expected
        if name in state and name not in counters and not state[name].is_floating_point()
    ]:
        raise _not_dense(source, odd)
    checked = {}
    for name, like in expected.items():
        if name in counters:
            checked[name] = torch.as_tensor(state.get(name, 0), dtype=torch.int64).reshape(())
        else:
            checked[name] = state[name].detach().to(like.dtype).contiguous()
    if bad := [name for name, value in checked.items() if not torch.isfinite(value).all()]:
        raise BadWeights(
            f"{source} holds NaN or infinite values: {listed('tensors', bad)}",
            hint="take an earlier checkpoint, from before its training diverged or overflowed",
        )
    if bad := [
        name
        for name, value in checked.items()
        if name.endswith("running_var") and bool((value < 0).any())
    ]:
        raise BadWeights(
            f"{source} holds negative variances: {listed('tensors', bad)}",
            hint="the file is damaged: copy or save it again",
        )
    return checked


def refuse_odd_tensors(state: Mapping[str, Tensor], size_bytes: int, source: str) -> None:
    """Refuse tensors that have no values in memory, or more of them than the file has.

    A tensor of a pickle may repeat one value a million times.

    Args:
        state: tensors by name.
        size_bytes: of the file that they are from.
        source: where they are from, for messages.

    Raises:
        BadWeights: names the first.
    """
    if odd := [name for name, value in state.items() if not _is_dense(value)]:
        raise _not_dense(source, odd)
    if sum(value.numel() * value.element_size() for value in state.values()) > size_bytes:
        largest = max(state, key=lambda name: state[name].numel())
        raise BadWeights(
            f"{source} has {size_bytes} bytes, and its tensors more: {largest[:80]} repeats values",
            hint="save a clone() of each tensor",
        )


def described(config: ResNeXtConfig) -> str:
    """A network in words, its input size aside: its variant's name, or its numbers.

    The same variant with other classes or input channels says so.
    """
    alike = {
        name: known
        for name, known in VARIANTS.items()
        if all(getattr(known, field) == getattr(config, field) for field in _SHAPE)
    }
    for known in list(alike.values())[:1]:
        classes, channels = config.num_classes, config.in_channels
        other = [f"{classes} classes"] if classes != known.num_classes else []
        other += [f"{channels} input channels"] if channels != known.in_channels else []
        return " or ".join(alike) + (f" with {' and '.join(other)}" if other else "")
    return (
        f"a network of depths {','.join(map(str, config.depths))}, cardinality"
        f" {config.cardinality} x {config.bottleneck_width}, stem {config.stem} x"
        f" {config.stem_channels}, {config.in_channels} input channels, {config.num_classes}"
        " classes"
    )


def _actual(state: Mapping[str, Tensor], config: ResNeXtConfig) -> str:
    """The network that the tensors are of, if it is another one than ``config``."""
    try:
        actual = config_from_shapes({name: tuple(value.shape) for name, value in state.items()})
    except ValueError:
        return ""
    fields = (*_SHAPE, "num_classes", "in_channels")
    alike = all(getattr(actual, field) == getattr(config, field) for field in fields)
    return "" if alike else f" The tensors are of {described(actual)}."


def _is_dense(tensor: Tensor) -> bool:
    """Whether the values are in memory, one for each place of the shape."""
    odd = tensor.is_meta or tensor.is_nested or tensor.is_quantized
    return not odd and tensor.layout == torch.strided


def _not_dense(source: str, names: list[str]) -> BadWeights:
    return BadWeights(
        f"{source} holds tensors that are not dense floating-point: {listed('tensors', names)}",
        hint="save the state_dict() of the float network, dense and on the CPU",
    )


def listed(what: str, names: Sequence[str], shown: int = 3) -> str:
    """``what``, the first few names, and how many more there are."""
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{what} {', '.join(name[:80] for name in names[:shown])}{rest}"
