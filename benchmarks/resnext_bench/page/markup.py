"""Elements of HTML and SVG. Whatever is not `Markup` is text, and is escaped."""

from __future__ import annotations

from html import escape
from typing import TypeAlias

from resnext.errors import printable


class Markup(str):
    """Text that is markup already. `tag` and `join` make it; nothing else should, but for text of
    this package.
    """

    __slots__ = ()


#: A child of an element; None and "" add nothing.
Child: TypeAlias = "Markup | str | int | float | None"

_VOID = frozenset({"br", "hr", "meta"})
#: SVG elements that may close themselves; an HTML element may not.
_EMPTY = frozenset({"circle", "line", "path", "rect", "use"})


def tag(element: str, /, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """One element.

    Args:
        element: its name.
        *children: markup as it is, other values as escaped text.
        **attributes: values are escaped; ``_`` in a name stands for ``-``, and one at the end is
            dropped (``class_``). True gives a bare attribute; False and None leave it out.
    """
    parts = [element]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        name = key.rstrip("_").replace("_", "-")
        parts.append(name if value is True else f'{name}="{_text(value)}"')
    opened = f"<{' '.join(parts)}>"
    if element in _VOID:
        return Markup(opened)
    if element in _EMPTY and not children:
        return Markup(f"{opened[:-1]}/>")
    return Markup(f"{opened}{join(*children)}</{element}>")


def join(*children: Child) -> Markup:
    """Children without an element around them."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else _text(child)
            for child in children
            if child is not None
        )
    )


def _text(value: str | float) -> str:
    """``value`` as escaped text. Control characters, which browsers drop or refuse, are shown."""
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return escape("\n".join(map(printable, str(value).split("\n"))))
