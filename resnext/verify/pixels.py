"""Compare the pixels of a port with ours, and name its mistakes.

The port's array is explained, not only compared: its layout and scale, then one step of reading
pictures after the other is tried (`resnext.verify.pixel_readings`), whatever brings its numbers
nearest to what such a mistake gives. What is named explains the whole difference, on each picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from resnext.artifact.specs import Strict
from resnext.errors import BadInput
from resnext.images.preprocessing import Preprocessing

from .pixel_readings import STEPS, Port, Reading, explanation

#: Largest difference that counts as none, gray levels: rounding, and that of a JPEG decoder.
ROUNDING = 1.0
JPEG = 3.0
#: A picture is explained if what is left differs by less than this, on average, gray levels.
_EXPLAINED = 1.0
#: A step is a mistake if it brings the port at least this much nearer.
_NEARER = 0.98
#: A float is exact if it is this near, gray levels: float32 rounds.
_EXACT = 0.01
_PASSES = 3

#: Where the axes of the array are, what to say if it is not the right place.
_LAYOUTS: Mapping[str, str] = MappingProxyType(
    {
        "NHWC": "the axes are N x H x W x C; the network's input is N x C x H x W",
        "NCHW": "the axes are N x C x H x W; pixels are N x H x W x C",
        "NHWC-as-NCHW": "the array has the right shape, but was reshaped from N x H x W x C, not"
        " transposed",
        "NCHW-as-NHWC": "the array has the right shape, but was reshaped from N x C x H x W, not"
        " transposed",
        "transposed": "height and width are swapped",
    }
)
#: What was done to gray levels from 0 to 255, and what to say.
_SCALES: Mapping[str, str] = MappingProxyType(
    {
        "right": "",
        "unit": "mean and std are not applied: the values are 0 to 1",
        "full": "mean and std are not applied, and the values are 0 to 255: divide by 255, subtract"
        " the mean, divide by the std",
        "full-normalized": "mean and std are applied to values from 0 to 255: divide by 255 first",
        "twice": "mean and std are applied twice",
        "no-std": "the std is not applied",
        "no-mean": "the mean is not applied",
        "signed": "the values are scaled to -1 to 1 instead of by mean and std",
        "reversed": "mean and std are applied in the order B, G, R to channels R, G, B",
    }
)


class Mistake(Strict):
    """One mistake of a port.

    Attributes:
        code: the step and how it is done; stable, for example ``resampling: no-antialias``.
        message: what is wrong, and what to do.
    """

    code: str
    message: str


class PictureDifference(Strict):
    """Pixels of one picture against ours.

    Attributes:
        name: of the picture.
        largest: largest difference, gray levels.
        mean: mean absolute difference, gray levels.
        allowed: largest difference that counts as none, gray levels.
    """

    name: str
    largest: float
    mean: float
    allowed: float

    @property
    def same(self) -> bool:
        """Whether the difference counts as none."""
        return self.largest <= self.allowed


class PixelComparison(Strict):
    """The outcome of a comparison.

    Attributes:
        same: every picture is, within rounding and what JPEG decoders may differ.
        exact: every pixel is the same.
        pictures: each picture's difference, in the kit's order, with layout and scale as they
            should be.
        mistakes: what explains the difference; empty if the pixels are the same, or if none of the
            known mistakes explains it.
    """

    same: bool
    exact: bool
    pictures: Annotated[tuple[PictureDifference, ...], Field(min_length=1)]
    mistakes: tuple[Mistake, ...]


@dataclass(frozen=True)
class _State:
    """An explanation: how the array is laid out and scaled, and how pictures were read."""

    layout: str
    scale: str
    reading: Reading


def compare_pixels(
    array: NDArray[Any],
    names: Sequence[str],
    pictures: Sequence[bytes],
    pixels: NDArray[np.uint8],
    preprocessing: Preprocessing,
) -> PixelComparison:
    """Compare, and name the mistakes.

    Args:
        array: of the port: pixels (uint8, N x H x W x C), or the network's input (float, N x C x H
            x W).
        names: of the pictures.
        pictures: their files.
        pixels: ours, N x H x W x C.
        preprocessing: of the network.

    Raises:
        BadInput: ``array`` is of another shape or type, or not finite.
    """
    search = _Search(array, pixels, Port(pictures, preprocessing), preprocessing)
    allowed = [JPEG if name.endswith(".jpg") else ROUNDING for name in names]
    ours, shown = pixels.astype(np.float32), search.shown()
    away = np.abs(shown - ours)
    differences = tuple(
        PictureDifference(name=name, largest=float(one.max()), mean=float(one.mean()), allowed=most)
        for name, one, most in zip(names, away, allowed, strict=True)
    )
    same = search.laid_out_right and all(each.same for each in differences)
    mistakes: tuple[Mistake, ...] = ()
    if not same:
        best = search.best()
        if search.explains(best):
            mistakes = _named(best, search.right, preprocessing)
        elif (order := _reordered(shown, ours)) is not None:
            mistakes = (order,)
    exact = same and bool((np.rint(shown) == ours).all()) and bool(away.max() < _EXACT)
    return PixelComparison(same=same, exact=exact, pictures=differences, mistakes=mistakes)


class _Search:
    """The explanation of an array that leaves least.

    Args:
        array: of the port.
        pixels: ours.
        port: what each way of reading gives.
        preprocessing: of the network.
    """

    def __init__(
        self,
        array: NDArray[Any],
        pixels: NDArray[np.uint8],
        port: Port,
        preprocessing: Preprocessing,
    ) -> None:
        floats = array.dtype.kind == "f"
        self.right = "NCHW" if floats else "NHWC"
        self._layouts = _laid_out(array, pixels.shape)
        self._scales = _unscaled(preprocessing) if floats else {"right": lambda values: values}
        self._port = port
        self._left: dict[_State, NDArray[np.float64]] = {}

    @property
    def laid_out_right(self) -> bool:
        """Whether the array's shape is the right one."""
        return self.right in self._layouts

    def shown(self) -> NDArray[np.float32]:
        """The array in gray levels, N x H x W x C, if its scale is right."""
        layout = self.right if self.laid_out_right else next(iter(self._layouts))
        return self._levels(_State(layout, "right", Reading()))

    def best(self) -> _State:
        """The nearest explanation, without mistakes that explain nothing."""
        starts = [
            _State(layout, scale, Reading())
            for layout in self._layouts
            for scale in self._scales
            if scale == "right" or self._possible(layout, scale)
        ]
        ends: list[_State] = []
        for start in sorted(starts, key=self._mean):
            ends.append(self._nearest(start))
            if self.explains(ends[-1]):
                return self._simplest(ends[-1])
        # One step hid another: both at once.
        nearest = min(ends, key=self._mean)
        pairs = [
            nearest.reading.changed("geometry", geometry).changed("resampling", resampling)
            for geometry in STEPS["geometry"]
            for resampling in STEPS["resampling"]
        ]
        pair = min((replace(nearest, reading=each) for each in pairs), key=self._mean)
        return self._simplest(self._nearest(pair))

    def explains(self, state: _State) -> bool:
        """Whether ``state`` leaves nothing of any picture."""
        return bool(self._rest(state).max() <= _EXPLAINED)

    def _nearest(self, state: _State) -> _State:
        """From ``state``, the best choice of one step after the other, until none is nearer."""
        for _ in range(_PASSES):
            before = state
            for step, values in STEPS.items():
                choices = [
                    replace(state, reading=state.reading.changed(step, one)) for one in values
                ]
                nearest = min(choices, key=self._mean)
                if self._mean(nearest) < _NEARER * self._mean(state):
                    state = nearest
            if state == before or self._rest(state).max() == 0:
                break
        return state

    def _simplest(self, state: _State) -> _State:
        """``state`` without the mistakes that explain nothing."""
        simpler = [replace(state, reading=state.reading.right(step)) for step in STEPS]
        for one in (*simpler, replace(state, scale="right")):
            if one != state and self._rest(one).max() <= self._rest(state).max():
                return self._simplest(one)
        return state

    def _possible(self, layout: str, scale: str) -> bool:
        """Whether the array has gray levels from 0 to 255, with this layout and scale."""
        levels = self._levels(_State(layout, scale, Reading()))
        return bool(levels.min() > -ROUNDING and levels.max() < 255 + ROUNDING)

    def _levels(self, state: _State) -> NDArray[np.float32]:
        return self._scales[state.scale](self._layouts[state.layout].astype(np.float32))

    def _rest(self, state: _State) -> NDArray[np.float64]:
        """What ``state`` does not explain of each picture: mean gray levels."""
        if state not in self._left:
            rest = np.abs(self._levels(state) - self._port.pixels(state.reading))
            self._left[state] = rest.mean(axis=(1, 2, 3), dtype=np.float64)
        return self._left[state]

    def _mean(self, state: _State) -> float:
        return float(self._rest(state).mean())


def _laid_out(array: NDArray[Any], shape: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    """``array`` as N x H x W x C, under each layout that its shape allows."""
    count, height, width, channels = shape
    pixels, planes = (count, height, width, channels), (count, channels, height, width)
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise BadInput(f"the array is {array.dtype}; it must be uint8 pixels, or floats")
    if not np.isfinite(array).all():
        raise BadInput("the array has NaN or infinite values")
    found: dict[str, NDArray[Any]] = {}
    if array.shape == pixels:
        found["NHWC"] = array
        found["NCHW-as-NHWC"] = array.reshape(planes).transpose(0, 2, 3, 1)
    if array.shape == planes:
        found["NCHW"] = array.transpose(0, 2, 3, 1)
        found["NHWC-as-NCHW"] = array.reshape(pixels)
    if array.shape == (count, width, height, channels):
        found["transposed"] = array.transpose(0, 2, 1, 3)
    elif array.shape == (count, channels, width, height):
        found["transposed"] = array.transpose(0, 3, 2, 1)
    if not found:
        raise BadInput(
            f"the array is {' x '.join(map(str, array.shape)) or 'one number'}; it must be"
            f" {' x '.join(map(str, pixels))} (uint8 pixels, N x H x W x C) or"
            f" {' x '.join(map(str, planes))} (normalized floats, N x C x H x W)"
        )
    return found


def _unscaled(
    preprocessing: Preprocessing,
) -> Mapping[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]]:
    """Gray levels from 0 to 255, for each way in which they may have been scaled."""
    mean: NDArray[np.float32] = np.asarray(preprocessing.mean, np.float32)
    std: NDArray[np.float32] = np.asarray(preprocessing.std, np.float32)
    scales: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
        "right": lambda values: (values * std + mean) * np.float32(255),
        "unit": lambda values: values * np.float32(255),
        "full": lambda values: values,
        "full-normalized": lambda values: values * std + mean,
        "twice": lambda values: ((values * std + mean) * std + mean) * np.float32(255),
        "no-std": lambda values: (values + mean) * np.float32(255),
        "no-mean": lambda values: values * std * np.float32(255),
        "signed": lambda values: (values + 1) * np.float32(127.5),
        "reversed": lambda values: (values * std[::-1] + mean[::-1]) * np.float32(255),
    }
    return scales


def _named(state: _State, right: str, preprocessing: Preprocessing) -> tuple[Mistake, ...]:
    mistakes = []
    if state.layout != right:
        mistakes.append(Mistake(code=f"layout: {state.layout}", message=_LAYOUTS[state.layout]))
    if state.scale != "right":
        mistakes.append(Mistake(code=f"scale: {state.scale}", message=_SCALES[state.scale]))
    for step, values in STEPS.items():
        value = getattr(state.reading, step)
        if value != next(iter(values)):
            message = explanation(step, value, preprocessing)
            mistakes.append(Mistake(code=f"{step}: {value}", message=message))
    return tuple(mistakes)


def _reordered(shown: NDArray[np.float32], ours: NDArray[np.float32]) -> Mistake | None:
    """The mistake of an array with the right pictures in another order."""
    away = np.abs(shown[:, np.newaxis] - ours[np.newaxis]).mean(axis=(2, 3, 4))
    nearest = away.argmin(axis=1)
    if sorted(nearest.tolist()) != list(range(len(ours))) or away.min(axis=1).max() > _EXPLAINED:
        return None
    order = ", ".join(str(index + 1) for index in nearest.tolist())
    return Mistake(code="order", message=f"the pictures are in another order: {order}")
