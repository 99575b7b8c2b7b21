"""What a user's code says: functions, classes and objects as text that is the same in each process."""

from __future__ import annotations

import inspect
from functools import partial
from types import CellType
from typing import Any

FIXED = (bool, int, float, str, bytes, tuple, frozenset)


def source(code: Any) -> str:
    """The source of a function, with the values that it was made with; of an object that of its class, with its own.

    Global variables that a function reads are not in it, nor what it holds besides numbers, words and code.
    """
    if isinstance(code, partial):
        return f"{source(code.func)} {_held(code.args)} {_held(code.keywords)}"
    if inspect.ismethod(code):
        return f"{source(code.__func__)} {source(code.__self__)}"
    if inspect.isfunction(code):
        cells = [cell.cell_contents for cell in code.__closure__ or () if cell != CellType()]
        return f"{_text(code)} {_held(code.__defaults__)} {_held(code.__kwdefaults__)} {_held(cells)}"
    if inspect.isclass(code) or not hasattr(code, "__dict__"):
        return _text(code)
    settings = {
        name: value
        for name, value in vars(code).items()
        if isinstance(value, FIXED) and name != "training" and not name.startswith("_")  # others may change
    }
    return f"{_text(type(code))} {_held(settings)}"


def _held(value: Any) -> str:
    """A value that says the same in each process."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_held, value))}]"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(_held, value)))}}}"
    if isinstance(value, dict):
        return f"{{{', '.join(sorted(f'{_held(key)}: {_held(each)}' for key, each in value.items()))}}}"
    if isinstance(value, FIXED) or value is None:
        return repr(value)
    return _text(value) if inspect.isroutine(value) or inspect.isclass(value) else type(value).__qualname__


def _text(code: Any) -> str:
    try:
        return inspect.getsource(code)
    except (OSError, TypeError):
        return str(getattr(code, "__qualname__", type(code).__qualname__))
