"""The calibration images that a request names."""

from __future__ import annotations

from resnext.errors import UsageError
from resnext.images.sources import ImageSource, image_source
from resnext.weights.shipped import SHIPPED
from resnext.weights.spec import Weights

from .options import IMAGES
from .request import ExportRequest


def calibration_images(request: ExportRequest, weights: Weights) -> ImageSource:
    """The images to calibrate the network of ``weights`` on.

    Raises:
        UsageError: none were named, and the weights come with none.
        BadInput: no such folder, no or too few pictures in it, or an unreadable one.
        MissingRequirement: the package with the data set is not installed.
    """
    return image_source(
        require_calibration(request, weights),
        weights.preprocessing,
        split="calibration",
        limit=request.calibration_images or IMAGES,
    )


def require_calibration(request: ExportRequest, weights: Weights) -> str:
    """Name of the images; none are read.

    Raises:
        UsageError: none were named, and ``weights`` come with none.
    """
    if request.calibration is not None:
        return request.calibration
    if weights.source in SHIPPED and SHIPPED[weights.source].config == weights.config:
        return weights.source
    raise UsageError(
        "int8 and fp8 need images to calibrate on: `calibration` FOLDER, with pictures as the"
        " network will see them (or digits, or fashion-mnist; random is noise, and only good for"
        " trying speed)"
    )
