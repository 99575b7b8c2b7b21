"""Calls as text, `name(value,key=value)`: how lineages and schemes name every parameter they have."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, TypeVar

from metav.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Built = TypeVar("Built", bound="DataclassInstance")
POSITIONAL = ("architecture", "data", "epochs", "ratio", "scope", "bits", "unit", "size", "temperature", "k", "quality")
_CALL = re.compile(r"(?P<name>[A-Za-z][\w.-]*)(?:\((?P<args>[^()]*)\))?")


def call(text: str) -> tuple[str, str]:
    """Split `name(args)` into name and args; the parentheses may be left out where there are none.

    Raises
    ------
    UsageError
        The text has another form.
    """
    match = _CALL.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"expected a name with arguments in parentheses, like wp(0.3) or metav(batch=4), got {text!r}: correct it."
        )
    return match["name"], match["args"] or ""


def build(kind: type[Built], args: str, fixed: Mapping[str, Any] | None = None) -> Built:
    """Build the dataclass `kind` from comma-separated arguments, in the order of its fields or by name.

    Parameters
    ----------
    kind
        A dataclass whose fields are annotated as str, int or float. An int called `epochs` may end in `ep`.
    args
        For example `public,10ep,lr=0.001`.
    fixed
        Fields that the text may not set.

    Raises
    ------
    UsageError
        An argument is unknown, given twice, of another type, or missing.
    """
    values: dict[str, Any] = dict(fixed or {})
    open_fields = [field for field in fields(kind) if field.name not in values]
    types = {field.name: getattr(field.type, "__name__", str(field.type)) for field in open_fields}
    known = f"arguments among {', '.join(types)}" if types else "no arguments"
    order = iter(types)
    for token in filter(None, (part.strip() for part in args.split(","))):
        name, equals, value = (word.strip() for word in token.rpartition("="))
        name = name if equals else next(order, "")
        if name in types and name in values:
            raise UsageError(f"expected {name} once, got it again in {token!r}: leave one out.")
        if name not in types:
            close = difflib.get_close_matches(name, [each for each in types if each not in values], n=1)
            hint = f"did you mean {close[0]!r}?" if close else "correct it."
            raise UsageError(f"expected {known}, got {token!r}: {hint}")
        try:
            values[name] = _convert(value, name, types[name])
        except ValueError as error:
            raise UsageError(f"expected {name} to be of type {types[name]}, got {value!r}: correct it.") from error
    required = [field.name for field in open_fields if field.default is MISSING]
    if missing := [name for name in required if name not in values]:
        raise UsageError(f"expected a value for {', '.join(missing)}, got {args!r}: add it as name=value.")
    return kind(**values)


def render(name: str, built: Any, fixed: Collection[str] = ()) -> str:
    """Write a dataclass as the text that `build` reads, in one form only: equal values give equal texts.

    Fields at their defaults and `fixed` ones are left out; those in `POSITIONAL` come without their name.
    """
    tokens = []
    for field in fields(built):
        value = getattr(built, field.name)
        if field.name in fixed or value == field.default:
            continue
        text = f"{value}ep" if field.name == "epochs" else str(value)
        tokens.append(text if field.name in POSITIONAL else f"{field.name}={text}")
    return f"{name}({','.join(tokens)})"


def _convert(value: str, name: str, type_name: str) -> str | int | float:
    if type_name == "int":
        return int(value.removesuffix("ep") if name == "epochs" else value)
    return float(value) if type_name == "float" else value
