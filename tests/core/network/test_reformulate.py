from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from resnext.errors import BadInput, UsageError
from resnext.network.config import ResNeXtConfig, variant
from resnext.network.forms import (
    Block,
    ConcatenatedPaths,
    SummedPaths,
    Transformation,
    concatenated_from_block,
    grouped_from_block,
    merge_groups,
    merge_model_groups,
    merged_layers,
    merged_macs,
    split_groups,
    split_model_groups,
    summed_from_block,
)
from resnext.network.layers import layers, macs
from resnext.network.model import Bottleneck, ResNeXt
from resnext.weights.conditioned import seeded_state_dict

TOLERANCE = 1e-12
#: A fault has to move outputs by at least this much, or the tolerance would prove little.
VISIBLE = 1e-2

FORMS: dict[str, Callable[[Block], Block]] = {
    "summed": summed_from_block,
    "concatenated": concatenated_from_block,
    "grouped": grouped_from_block,
}
#: Channels of one group, by cardinality.
WIDTHS = {1: 12, 4: 6, 32: 2}
#: Input channels, output channels and stride, by kind of shortcut.
SHORTCUTS = {"identity": (20, 20, 1), "projection": (10, 20, 1), "strided projection": (10, 20, 2)}

every_cardinality = pytest.mark.parametrize("cardinality", WIDTHS)
every_shortcut = pytest.mark.parametrize("shortcut", SHORTCUTS)
every_form = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    # On tensors as small as these, threads that wait for each other take several times as long on a
    # busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_block(cardinality: int = 4, shortcut: str = "strided projection") -> Bottleneck:
    """A float64 block in eval mode whose weights and batch-norm statistics differ from channel to
    channel.
    """
    inputs, outputs, stride = SHORTCUTS[shortcut]
    generator = torch.Generator().manual_seed(cardinality)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return torch.rand(like.shape, generator=generator, dtype=torch.float64) * (high - low) + low

    block = (
        Bottleneck(inputs, cardinality * WIDTHS[cardinality], outputs, cardinality, stride)
        .double()
        .eval()
    )
    state = block.state_dict()
    for name, value in state.items():
        if value.dim() == 4:
            bound = (3 / value[0].numel()) ** 0.5
            value.copy_(uniform(value, -bound, bound))
        elif name.endswith("num_batches_tracked"):
            value.fill_(7)
        elif name.endswith(("running_mean", "bias")):
            value.copy_(uniform(value, -0.5, 0.5))
        else:
            value.copy_(uniform(value, 0.5, 1.5))
    return block


def images(channels: int = 10) -> Tensor:
    return torch.randn(
        2, channels, 9, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )


def inputs_of(block: Bottleneck) -> Tensor:
    return images(block.conv1.in_channels)


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).detach().abs().max())


def paths_of(block: SummedPaths | ConcatenatedPaths) -> list[Transformation]:
    return cast("list[Transformation]", list(block.paths))


def assert_same_bits(one: nn.Module, other: nn.Module) -> None:
    expected, got = one.state_dict(), other.state_dict()
    assert list(got) == list(expected)
    for name, value in expected.items():
        assert got[name].dtype == value.dtype, name
        assert torch.equal(got[name], value), name


def test_the_blocks_of_these_tests_have_outputs_of_unit_order() -> None:
    for cardinality, shortcut in itertools.product(WIDTHS, SHORTCUTS):
        block = make_block(cardinality, shortcut)
        spread = float(block(inputs_of(block)).std().detach())
        assert 0.3 < spread < 3


@every_form
@every_shortcut
@every_cardinality
def test_every_form_computes_what_the_grouped_block_computes(
    cardinality: int, shortcut: str, form: str
) -> None:
    block = make_block(cardinality, shortcut)
    x = inputs_of(block)
    assert difference(FORMS[form](block)(x), block(x)) <= TOLERANCE


@every_form
@every_shortcut
@every_cardinality
def test_a_training_step_changes_every_form_alike(
    cardinality: int, shortcut: str, form: str
) -> None:
    block = make_block(cardinality, shortcut).train()
    other = FORMS[form](block)
    x = inputs_of(block)
    assert difference(step(other, x), step(block, x)) <= TOLERANCE
    changed = grouped_from_block(other).state_dict()
    for name, value in block.state_dict().items():
        assert difference(changed[name], value) <= TOLERANCE, name
    assert int(changed["bn2.num_batches_tracked"]) == 8
    assert (
        difference(
            changed["bn2.running_var"],
            make_block(cardinality, shortcut).bn2.state_dict()["running_var"],
        )
        > 0
    )


def step(block: nn.Module, x: Tensor) -> Tensor:
    """Output of ``block`` before one step of gradient descent that changes it."""
    y: Tensor = block(x)
    probe = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    (y * probe).mean().backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter in block.parameters():
            assert parameter.grad is not None
            parameter.sub_(parameter.grad)
    return y


@every_shortcut
@every_cardinality
def test_round_trips_between_any_forms_give_the_same_bits(cardinality: int, shortcut: str) -> None:
    block = make_block(cardinality, shortcut)
    for route in itertools.product(FORMS.values(), repeat=2):
        there: Block = block
        for convert in route:
            there = convert(there)
        assert_same_bits(there, route[-1](block))
        assert_same_bits(grouped_from_block(there), block)


@every_cardinality
def test_form_a_has_a_whole_path_and_form_b_half_a_path_for_each_group(cardinality: int) -> None:
    block = make_block(cardinality)
    summed, concatenated = summed_from_block(block), concatenated_from_block(block)
    width = WIDTHS[cardinality]
    assert [path.conv2.weight.shape for path in paths_of(summed)] == [
        (width, width, 3, 3)
    ] * cardinality
    assert [path.conv3.weight.shape for path in paths_of(summed) if path.conv3] == [
        (20, width, 1, 1)
    ] * cardinality
    assert [path.conv3 for path in paths_of(concatenated)] == [None] * cardinality
    weights = {
        sum(w.numel() for w in form.parameters() if w.dim() == 4)
        for form in (block, summed, concatenated)
    }
    assert len(weights) == 1


@pytest.mark.parametrize("training", [True, False])
@every_form
def test_conversion_keeps_dtype_mode_and_batch_norm_settings_of_each_layer(
    form: str, training: bool
) -> None:
    block = make_block().to(torch.bfloat16).train(training)
    block.bn1.train(not training)
    block.conv2.requires_grad_(False)
    block.bn2.requires_grad_(False)
    for norm in (block.bn1, block.bn2):
        norm.eps, norm.momentum = 1e-3, 0.25
    new = FORMS[form](block)
    back = grouped_from_block(new)
    assert_same_bits(back, block)
    for converted in (new, back):
        assert {
            module.training for name, module in converted.named_modules() if name.endswith("bn1")
        } == {not training}
        assert {
            module.training
            for name, module in converted.named_modules()
            if not name.endswith("bn1")
        } == {training}
        frozen = {
            name.split(".")[-2]
            for name, value in converted.named_parameters()
            if not value.requires_grad
        }
        assert frozen == {"conv2", "bn2"}
    assert (back.bn2.eps, back.bn2.momentum) == (1e-3, 0.25)


def merge_by_two(block: Bottleneck) -> Bottleneck:
    return merge_groups(block, 2)


def split_by_one(block: Bottleneck) -> Bottleneck:
    return split_groups(block, 1)


@pytest.mark.parametrize(
    ("form", "convert"),
    [
        *itertools.product(FORMS, FORMS.values()),
        ("grouped", merge_by_two),
        ("grouped", split_by_one),
    ],
)
def test_the_argument_is_neither_changed_nor_shared(
    form: str, convert: Callable[[Block], nn.Module]
) -> None:
    block = FORMS[form](make_block())
    before = copy.deepcopy(block)
    new = convert(block)
    with torch.no_grad():
        for value in new.state_dict().values():
            value.add_(1)
    assert_same_bits(block, before)


def test_whole_paths_may_come_in_any_order() -> None:
    block = make_block()
    summed = summed_from_block(block)
    summed.paths = nn.ModuleList(reversed(paths_of(summed)))
    assert difference(summed(images()), block(images())) <= TOLERANCE


def drop_path(block: SummedPaths) -> None:
    block.paths = nn.ModuleList(paths_of(block)[1:])


def swap_reduce(block: SummedPaths) -> None:
    one, other, *_ = paths_of(block)
    one.conv1, other.conv1 = other.conv1, one.conv1


def swap_expand(block: SummedPaths) -> None:
    one, other, *_ = paths_of(block)
    one.conv3, other.conv3 = other.conv3, one.conv3


def swap_statistics(block: SummedPaths) -> None:
    one, other, *_ = paths_of(block)
    one.bn2, other.bn2 = other.bn2, one.bn2


@pytest.mark.parametrize("cardinality", [4, 32])
@pytest.mark.parametrize("fault", [drop_path, swap_reduce, swap_expand, swap_statistics])
def test_a_fault_in_the_paths_shows_in_the_output(
    fault: Callable[[SummedPaths], None], cardinality: int
) -> None:
    block = make_block(cardinality)
    summed = summed_from_block(block)
    fault(summed)
    expected = block(images())
    assert difference(summed(images()), expected) > VISIBLE
    assert difference(grouped_from_block(summed)(images()), expected) > VISIBLE


def test_concatenating_paths_in_another_order_shows_in_the_output() -> None:
    block = make_block()
    concatenated = concatenated_from_block(block)
    concatenated.paths = nn.ModuleList(reversed(paths_of(concatenated)))
    assert difference(concatenated(images()), block(images())) > VISIBLE


def count_another_batch(path: Transformation) -> None:
    path.bn1.state_dict()["num_batches_tracked"].add_(1)


def widen(path: Transformation) -> None:
    path.conv2 = nn.Conv2d(12, 12, 3)


def freeze_statistics(path: Transformation) -> None:
    path.bn2.train()


def change_momentum(path: Transformation) -> None:
    path.bn2.momentum = 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (count_another_batch, r"batches tracked \(7 and 8\)"),
        (widen, r"width \(6 and 12\)"),
        (freeze_statistics, "mode"),
        (change_momentum, "momentum"),
    ],
)
def test_paths_that_differ_do_not_become_groups(
    change: Callable[[Transformation], None], message: str
) -> None:
    concatenated = concatenated_from_block(make_block())
    change(paths_of(concatenated)[-1])
    with pytest.raises(BadInput, match=message):
        grouped_from_block(concatenated)


@every_shortcut
@pytest.mark.parametrize(
    ("cardinality", "factor"),
    [(c, f) for c in WIDTHS for f in range(1, c + 1) if c % f == 0],
    ids=str,
)
def test_merged_groups_compute_the_same_and_split_to_the_same_bits(
    cardinality: int, factor: int, shortcut: str
) -> None:
    block = make_block(cardinality, shortcut)
    x = inputs_of(block)
    merged = merge_groups(block, factor)
    assert merged.conv2.groups == cardinality // factor
    assert merged.conv2.weight.shape == (
        cardinality * WIDTHS[cardinality],
        factor * WIDTHS[cardinality],
        3,
        3,
    )
    assert merged.conv2.weight.count_nonzero() == block.conv2.weight.count_nonzero()
    assert difference(merged(x), block(x)) <= TOLERANCE
    assert_same_bits(split_groups(merged, factor), block)
    merged.train()
    assert difference(merged(x), copy.deepcopy(block).train()(x)) <= TOLERANCE


def test_merged_groups_may_be_merged_and_split_in_steps() -> None:
    block = make_block(32)
    assert_same_bits(merge_groups(merge_groups(block, 4), 2), merge_groups(block, 8))
    assert_same_bits(split_groups(merge_groups(block, 8), 2), merge_groups(block, 4))
    wide = summed_from_block(merge_groups(block, 8))
    assert len(wide.paths) == 4
    assert difference(wide(images()), block(images())) <= TOLERANCE


@pytest.mark.parametrize("factor", [0, 3, 8, -2, True, 2.0])
def test_merging_by_a_factor_that_does_not_divide_the_groups_tells_which_do(factor: Any) -> None:
    with pytest.raises(UsageError, match=r"divide the 4 groups of this block: one of 1, 2, 4; got"):
        merge_groups(make_block(4), factor)


def test_splitting_by_a_factor_that_does_not_divide_the_width_tells_which_do() -> None:
    with pytest.raises(
        UsageError,
        match=r"divide the 6 channels of a group of this block: one of 1, 2, 3, 6; got 4",
    ):
        split_groups(make_block(4), 4)


@pytest.mark.parametrize("planted", [1e-300, -1.0, float("nan")])
def test_one_weight_between_groups_that_is_not_zero_refuses_to_split(planted: float) -> None:
    merged = merge_groups(make_block(4), 2)
    with torch.no_grad():
        merged.conv2.weight[0, -1, 2, 0] = planted
    with pytest.raises(BadInput, match="1 weights between the new groups are not zero"):
        split_groups(merged, 2)


def test_groups_that_were_never_merged_refuse_to_split() -> None:
    with pytest.raises(BadInput, match="not zero"):
        split_groups(make_block(4), 2)


def test_merged_groups_that_were_trained_refuse_to_split() -> None:
    merged = merge_groups(make_block(4), 2).train()
    step(merged, images())
    with pytest.raises(BadInput, match="trained since"):
        split_groups(merged, 2)


def test_weights_off_their_diagonal_show_in_the_output() -> None:
    block = make_block(4)
    merged = merge_groups(block, 2)
    with torch.no_grad():
        merged.conv2.weight.copy_(merged.conv2.weight.roll(WIDTHS[4], dims=1))
    assert difference(merged(images()), block(images())) > VISIBLE


def seeded_model(config: ResNeXtConfig) -> ResNeXt:
    model = ResNeXt(config).double().eval()
    model.load_state_dict(seeded_state_dict(config, 0))
    return model


def groups_of(model: ResNeXt) -> list[set[int]]:
    return [
        {m.conv2.groups for m in stage.modules() if isinstance(m, Bottleneck)}
        for stage in model.stages
    ]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (variant("resnext11_8x4d_digits"), [{1}, {2}, {4}]),
        (ResNeXtConfig(input_size=(32, 32)), [{4}, {8}, {16}, {32}]),
    ],
    ids=["digits", "resnext50"],
)
def test_a_model_merged_to_32_channels_a_group_computes_the_same(
    config: ResNeXtConfig, expected: list[set[int]]
) -> None:
    model = seeded_model(config)
    before = copy.deepcopy(model)
    merged = merge_model_groups(model, 32)
    x = torch.randn(
        2, config.in_channels, *config.input_size, generator=torch.Generator().manual_seed(0)
    ).double()
    with torch.no_grad():
        logits = model(x)
        assert difference(merged(x), logits) <= TOLERANCE
    assert float(logits.std()) > 0.3
    assert groups_of(merged) == expected
    assert merged.config == config
    assert_same_bits(model, before)
    assert_same_bits(split_model_groups(merged), model)
    assert_same_bits(merge_model_groups(merged, 32), merged)


def test_a_model_with_one_damaged_merged_block_refuses_to_split() -> None:
    merged = merge_model_groups(ResNeXt(variant("resnext11_8x4d_digits")), 32)
    weight = merged.get_parameter("layer3.0.conv2.weight")
    with torch.no_grad():
        weight[0, -1] = 1
    with pytest.raises(BadInput, match="not zero"):
        split_model_groups(merged)


@pytest.mark.parametrize("least_width", [0, -1, True, 2.5])
def test_a_least_width_that_is_no_count_is_refused(least_width: Any) -> None:
    with pytest.raises(UsageError, match="least_width must be an integer of at least 1"):
        merge_model_groups(ResNeXt(variant("resnext11_8x4d_digits")), least_width)


def test_groups_stop_growing_at_one_group() -> None:
    merged = merge_model_groups(ResNeXt(variant("resnext11_8x4d_digits")), 100)
    assert groups_of(merged) == [{1}, {1}, {1}]


@pytest.mark.parametrize("name", ["resnext11_8x4d_digits", "resnext50_32x4d"])
@pytest.mark.parametrize("least_width", [1, 12, 32])
def test_merged_layers_count_what_the_merged_model_computes(name: str, least_width: int) -> None:
    config = variant(name)
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        merged = merge_model_groups(ResNeXt(config), least_width).eval()
        merged(torch.empty(1, config.in_channels, *config.input_size))
    assert 2 * merged_macs(config, least_width) == counter.get_total_flops()
    weights = {name: value.numel() for name, value in merged.named_parameters() if value.dim() > 1}
    assert {
        f"{layer.name}.weight": layer.weights for layer in merged_layers(config, least_width)
    } == weights


def test_merging_resnext50_to_32_channels_a_group_adds_13_percent_to_its_macs() -> None:
    config = variant("resnext50_32x4d")
    # By stage: blocks x channels x 3 x 3 x added width, and the pixels that each of these weights
    # meets.
    added = {
        56 * 56: 3 * 128 * 9 * 28,
        28 * 28: 4 * 256 * 9 * 24,
        14 * 14: 6 * 512 * 9 * 16,
        7 * 7: 0,
    }
    assert merged_macs(config, 32) - macs(config) == sum(
        pixels * weights for pixels, weights in added.items()
    )
    assert (macs(config), merged_macs(config, 32)) == (4_230_479_872, 4_794_056_704)
    weights = [
        sum(layer.weights for layer in kind) for kind in (layers(config), merged_layers(config, 32))
    ]
    assert weights == [24_959_680, 24_959_680 + sum(added.values())] == [24_959_680, 25_720_000]


def test_merging_to_one_channel_a_group_changes_no_layer() -> None:
    config = variant("resnext50_32x4d")
    assert list(merged_layers(config, 1)) == list(layers(config))
