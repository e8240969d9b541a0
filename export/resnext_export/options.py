"""How a field of an export request is spelled and explained on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

#: Runtimes that a quantized graph can be laid out for.
Runtime: TypeAlias = Literal["trt", "ort", "openvino"]
#: How calibration judges outliers.
Method: TypeAlias = Literal["minmax", "entropy", "percentile"]
#: Number of calibration images by default.
IMAGES = 128


@dataclass(frozen=True)
class Option:
    """One option. Its type and limits are those of the field that it annotates.

    Attributes:
        help: what it does, with the default if there is one.
        section: heading in ``--help``; "" means that of the options model.
        flag: if it is not ``--`` and the field's name with dashes.
        metavar: placeholder of the value.
        kind: what one value is called in an error message.
        choices: allowed names, if the field's type does not list them.
        graph: it is about an ONNX graph, so it does not apply to a format made from the weights.
    """

    help: str
    section: str = ""
    flag: str = ""
    metavar: str = ""
    kind: str = ""
    choices: tuple[str, ...] = ()
    graph: bool = False


class FormatOptions(BaseModel):
    """Options that only some formats have; a format with options derives its own model.

    Attributes:
        section: heading in ``--help``.
        title: what the options are for, for the message that refuses one elsewhere.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    section: ClassVar[str] = ""
    title: ClassVar[str] = ""
