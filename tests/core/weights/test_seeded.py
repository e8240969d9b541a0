from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from resnext.images.preprocessing import default_preprocessing
from resnext.images.synthetic import seeded_pixels
from resnext.network.config import ResNeXtConfig, variant
from resnext.network.model import Bottleneck, ResNeXt
from resnext.weights.checkpoint import state_dict_sha256
from resnext.weights.conditioned import seeded_state_dict
from resnext.weights.spec import Weights, load_model, load_weights

#: Digests of the weights themselves. They change only with the recipe, and then every stored result
#: is of other weights: say so in the changelog.
PINNED = {
    "resnext11_8x4d_digits": "ef2a6a5c38f2cc29eba9b65a656ac6f6f6f2980801fd15be4812794d412b5a5b",
    "resnext50_32x4d": "d59d9b30e2028aabdd01cbb36d96d95cc5a34b496328f6420c3478747fe3f0c7",
}
DIGITS = variant("resnext11_8x4d_digits")


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(scope="module")
def large() -> Weights:
    with threads(1):
        return load_weights("seeded:0", "resnext50_32x4d")


@pytest.fixture(scope="module")
def images(large: Weights) -> Tensor:
    pixels = seeded_pixels(large.config, 16, seed=3)
    return torch.from_numpy(default_preprocessing(large.config).normalize(pixels))


@pytest.fixture(scope="module")
def logits(large: Weights, images: Tensor) -> Tensor:
    with threads(1), torch.inference_mode():
        result: Tensor = load_model(large)(images)
    return result


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, second = seeded_state_dict(DIGITS, 5), seeded_state_dict(DIGITS, 5)
    assert list(first) == list(second)
    for name in first:
        assert first[name].numpy().tobytes() == second[name].numpy().tobytes(), name


def test_another_seed_gives_other_values_in_every_random_tensor() -> None:
    first, second = seeded_state_dict(DIGITS, 0), seeded_state_dict(DIGITS, 1)
    for name in first:
        if not name.endswith("num_batches_tracked"):
            assert not torch.equal(first[name], second[name]), name


def test_what_the_random_state_of_torch_and_numpy_is_does_not_matter() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        first = state_dict_sha256(seeded_state_dict(DIGITS, 0))
        torch.manual_seed(12)
        assert state_dict_sha256(seeded_state_dict(DIGITS, 0)) == first


@pytest.mark.parametrize("count", [1, 2])
def test_small_seeded_weights_are_the_pinned_bytes(count: int) -> None:
    with threads(count):
        digest = state_dict_sha256(seeded_state_dict(DIGITS, 0))
    assert digest == PINNED["resnext11_8x4d_digits"]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.exhaustive)])
def test_large_seeded_weights_are_the_pinned_bytes(
    count: int, request: pytest.FixtureRequest
) -> None:
    if count == 1:
        weights = request.getfixturevalue("large")
    else:
        with threads(count):
            weights = load_weights("seeded", "resnext50_32x4d")
    assert weights.sha256 == PINNED["resnext50_32x4d"]


def test_the_default_seed_is_0() -> None:
    assert load_weights("seeded", DIGITS).sha256 == PINNED["resnext11_8x4d_digits"]


@pytest.mark.parametrize(
    "config",
    [
        ResNeXtConfig((1,), 2, 3, (5, 9), 4, 3, stem="small", stem_channels=2),
        ResNeXtConfig((1, 2), 1, 4, (8, 8), 1, 1, stem_channels=4),
        ResNeXtConfig((1, 1, 1, 1, 1), 2, 1, (64, 64), 3, 7, stem_channels=2),
    ],
)
def test_any_configuration_gets_finite_weights_that_its_modules_take(config: ResNeXtConfig) -> None:
    state = seeded_state_dict(config, 0)
    with torch.device("meta"):
        model = ResNeXt(config)
    model.load_state_dict(state, assign=True)
    assert all(torch.isfinite(value).all() for value in state.values())
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}


@pytest.mark.slow
def test_every_block_puts_out_values_of_unit_order(large: Weights, images: Tensor) -> None:
    model = load_model(large)
    spread: dict[str, float] = {}
    for name, module in model.named_modules():
        if isinstance(module, Bottleneck):

            def hook(_module: nn.Module, _args: object, out: Tensor, name: str = name) -> None:
                spread[name] = float(out.std())

            module.register_forward_hook(hook)
    with torch.inference_mode():
        model(images[:4])
    assert len(spread) == 16
    assert {name: value for name, value in spread.items() if not 0.1 < value < 10} == {}


@pytest.mark.slow
def test_logits_tell_images_apart(logits: Tensor) -> None:
    assert len(set(logits.argmax(1).tolist())) >= 5
    values = logits.double().numpy()
    assert values.std(axis=0).mean() > 0.5 * np.sqrt((values**2).mean())


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_groups_rotated_by_one_in_a_single_stage_show_in_the_logits(
    stage: int, large: Weights, images: Tensor, logits: Tensor
) -> None:
    model = load_model(large)
    for block in model.stages[stage].modules():
        if isinstance(block, Bottleneck):
            block.conv2.weight.copy_(block.conv2.weight.roll(large.config.group_width(stage), 0))
    with torch.inference_mode():
        moved = model(images[:4]) - logits[:4]
    rms = float(logits.double().pow(2).mean().sqrt())
    assert float(moved.double().pow(2).mean().sqrt()) >= 0.1 * rms
