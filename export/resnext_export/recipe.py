"""What makes a new ONNX artifact of another one: a precision, its images, merged groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from resnext.errors import UsageError
from resnext.precision import HALVES, QUANTIZED, Precision

if TYPE_CHECKING:
    from resnext.images.sources import ImageSource
    from resnext.weights.spec import Weights

Runtime: TypeAlias = Literal["trt", "ort", "openvino"]
Method: TypeAlias = Literal["minmax", "entropy", "percentile"]
#: Precisions that take images to calibrate on.
#: Precisions whose inputs and outputs can be of that type themselves.
#: Images to calibrate on where nothing is said.
IMAGES = 128


@dataclass(frozen=True)
class Calibration:
    """Images to calibrate on.

    Attributes:
        spec: ``digits``, ``fashion-mnist``, a folder of pictures, or ``random``, which is noise and
            must be said; None means what shipped weights were trained on.
        images: how many.
        method: how outliers are judged.
    """

    spec: str | None = None
    images: int = IMAGES
    method: Method = "minmax"

    def source(self, weights: Weights) -> ImageSource:
        """The images, for the network of ``weights``.

        Raises:
            UsageError: none were named, and the weights come with none.
            BadInput: no such folder, no or too few pictures in it, or an unreadable one.
            MissingRequirement: the package with the data set is not installed.
        """
        from resnext.images.sources import image_source

        return image_source(
            self.spec or self._own(weights),
            weights.preprocessing,
            split="calibration",
            limit=self.images,
        )

    def check(self, weights: Weights) -> None:
        """Check that there are images to calibrate on, without reading any.

        Raises:
            UsageError: none were named, and ``weights`` come with none.
        """
        if self.spec is None:
            self._own(weights)

    def _own(self, weights: Weights) -> str:
        from resnext.weights.shipped import SHIPPED

        if weights.source in SHIPPED and SHIPPED[weights.source].config == weights.config:
            return weights.source
        raise UsageError(
            "int8 and fp8 need images to calibrate on: --calibration FOLDER, with pictures as the"
            " network will see them (or digits, or fashion-mnist; random is noise, and only good"
            " for trying speed)"
        )


@dataclass(frozen=True)
class Recipe:
    """How to make a new ONNX artifact of another one.

    Attributes:
        precision: of the new one; None leaves it as it is.
        native_io: let inputs and outputs be of ``precision`` too (fp16, bf16).
        runtime: what an int8 graph is for, and what ``merge`` is timed on.
        calibration: images for int8 and fp8.
        merge: input channels that each convolution group shall have at least; ``auto`` times the
            choices.
        batch: batch size that ``auto`` times at.
    """

    precision: Precision | None = None
    native_io: bool = False
    runtime: Runtime = "ort"
    calibration: Calibration = Calibration()
    merge: int | Literal["auto"] | None = None
    batch: int = 8

    def __post_init__(self) -> None:
        if self.native_io and self.precision not in HALVES:
            raise UsageError(
                "native inputs and outputs are for fp16 and bf16: float32 goes with the rest"
            )
        if self.calibration != Calibration() and self.precision not in QUANTIZED:
            raise UsageError(
                f"calibration is for {' and '.join(QUANTIZED)}; give --precision int8, or drop it"
            )
        if self.precision == "fp8" and self.runtime != "trt":
            raise UsageError("fp8 is for TensorRT; give --for trt")
        if self.merge == "auto" and self.runtime == "trt":
            raise UsageError(
                "--merge-groups auto times on a CPU: give --for ort or openvino, or a number of"
                " channels"
            )
