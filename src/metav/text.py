"""Calls as text, `name(value,key=value)`: how lineages and schemes name every parameter they have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from metav.errors import UsageError

Built = TypeVar("Built")
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
        raise UsageError(f"expected a name with arguments, like wp(0.3), got {text!r}: mend it.")
    return match["name"], match["args"] or ""


def build(kind: type[Built], args: str, fixed: Mapping[str, Any] | None = None) -> Built:
    """Build the dataclass `kind` from comma-separated arguments, in the order of its fields or by name.

    Parameters
    ----------
    kind
        A dataclass whose fields are str, int, float or bool. An int called `epochs` may end in `ep`.
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
    open_fields = [field for field in fields(kind) if field.name not in values]  # type: ignore[arg-type]
    types = {field.name: str(field.type) for field in open_fields}
    order = iter(types)
    for token in filter(None, (part.strip() for part in args.split(","))):
        name, equals, value = token.rpartition("=")
        name = name if equals else next(order, "")
        if name not in types or name in values:
            raise UsageError(f"expected arguments among {', '.join(types)}, got {token!r}: mend it.")
        try:
            values[name] = _convert(value, name, types[name])
        except ValueError as error:
            raise UsageError(f"expected {name} to be of type {types[name]}, got {value!r}: mend it.") from error
    required = [field.name for field in open_fields if field.default is MISSING]
    if missing := [name for name in required if name not in values]:
        raise UsageError(f"expected a value for {', '.join(missing)}, got {args!r}: add it as name=value.")
    return kind(**values)


def _convert(value: str, name: str, type_name: str) -> str | int | float:
    if type_name == "int":
        return int(value.removesuffix("ep") if name == "epochs" else value)
    return float(value) if type_name == "float" else value
