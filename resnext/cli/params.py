"""Types of option values; their errors list the allowed values in one line."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from resnext.errors import UnknownName, UsageError

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:  # not generic before click 8.2
    _ParamType = click.ParamType

#: Digits of the largest accepted size or count; anything longer is a typing error.
MOST_DIGITS = 6
#: Longest accepted time in minutes, a week.
_MOST_MINUTES = 10_080.0


class SecondsType(_ParamType):
    """A finite number of seconds, at least ``least``."""

    name = "SECONDS"

    def __init__(self, least: float) -> None:
        self._least = least

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Check and convert."""
        try:
            seconds = float(value)
        except ValueError:
            seconds = float("nan")
        if not self._least <= seconds <= 86400:  # false for NaN too
            self.fail(
                f"{value!r} must be a number of seconds from {self._least:g} to 86400", param, ctx
            )
        return seconds


class MinutesType(_ParamType):
    """A time in minutes, or with the unit s, m or h; its value is in minutes."""

    name = "MINUTES"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Check and convert."""
        if isinstance(value, float):
            return value
        text = str(value).strip().lower()
        unit = {"s": 1 / 60, "m": 1.0, "h": 60.0}.get(text[-1:])
        try:
            minutes = float(text) if unit is None else float(text[:-1]) * unit
        except ValueError:
            minutes = float("nan")
        if not 0 < minutes <= _MOST_MINUTES:  # false for NaN too
            self.fail(
                f"{value!r} must be minutes above 0 and at most {_MOST_MINUTES:g}, for example 10,"
                " 90s or 2h",
                param,
                ctx,
            )
        return minutes


class PercentType(_ParamType):
    """A share in percent, above 0 and at most 100; its value is the share."""

    name = "PERCENT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Check and convert."""
        if isinstance(value, float):
            return value
        try:
            percent = float(str(value).rstrip("% "))
        except ValueError:
            percent = float("nan")
        if not 0 < percent <= 100:  # false for NaN too
            self.fail(f"{value!r} must be a percentage above 0 and at most 100", param, ctx)
        return percent / 100


class NameType(_ParamType):
    """A name from a registry; anything else lists the known names and the nearest."""

    def __init__(self, kind: str, names: tuple[str, ...], *, many: bool = False) -> None:
        self.name = kind
        self._registered = names
        self._many = many

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check one name, or a comma-separated list of them."""
        if not isinstance(value, str):
            return value
        names = (
            tuple(dict.fromkeys(part.strip() for part in value.split(",")))
            if self._many
            else (value,)
        )
        for name in names:
            if not self._known(name, param, ctx):
                self.fail(str(UnknownName(self.name, name, self._registered)), param, ctx)
        return names if self._many else value

    def _known(
        self,
        name: str,
        param: click.Parameter | None,  # noqa: ARG002
        ctx: click.Context | None,  # noqa: ARG002
    ) -> bool:
        return name in self._registered

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[Any]:
        """Known names with the typed prefix."""
        return [CompletionItem(name) for name in self._registered if name.startswith(incomplete)]


class BackendType(NameType):
    """A name of a runtime, or of a served one with its URL, which is checked."""

    def _known(self, name: str, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        from resnext.runtimes.registry import known

        try:
            return known(name, self._registered)
        except UsageError as exc:
            self.fail(str(exc), param, ctx)


class NumbersType(_ParamType):
    """Finite numbers, separated by commas, one for each channel."""

    name = "A,B,C"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check and split."""
        if not isinstance(value, str):
            return value
        try:
            numbers = tuple(float(part) for part in value.split(","))
        except ValueError:
            numbers = (math.nan,)
        if not all(map(math.isfinite, numbers)):
            self.fail(
                f"{value!r} must be numbers separated by commas, for example 0.485,0.456,0.406",
                param,
                ctx,
            )
        return numbers


class CountsType(_ParamType):
    """Whole numbers of at least 1, separated by commas."""

    name = "N[,N...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check and split."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        plain = all(
            part.isascii() and part.isdigit() and len(part) <= MOST_DIGITS for part in parts
        )
        if not plain or not all(int(part) >= 1 for part in parts):
            self.fail(
                f"{value!r} must be a whole number of at least 1, or several separated by commas",
                param,
                ctx,
            )
        return tuple(dict.fromkeys(int(part) for part in parts))
