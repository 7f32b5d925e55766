"""Frozen dataclasses whose fields have help, flags and a range, and are validated on creation."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from cctkit.config.size import parse_size
from cctkit.errors import UserError
from cctkit.text import safe_text

# The sections of the help.
MODEL, DATA, AUGMENT, OPTIMIZER, RUN, MACHINE = "Model", "Data", "Augmentation", "Optimizer and schedule", "Run", "Machine"
MAIN = "Main options"
_LARGEST = 2**63 - 1

_HOLDS = {
    "at least": lambda value, bound: value >= bound,
    "above": lambda value, bound: value > bound,
    "at most": lambda value, bound: value <= bound,
    "below": lambda value, bound: value < bound,
}


def flag_name(key: str) -> str:
    """The flag of a field: `batch_size` -> `--batch-size`."""
    return "--" + key.replace("_", "-")


def setting(
    default: Any,
    text: str,
    *,
    panel: str,
    flags: tuple[str, ...] = (),
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    aliases: Mapping[str, str] = types.MappingProxyType({}),
    off: object = None,
    may_change: bool = False,
    alone: float | None = None,
) -> Any:
    """A field of a `Validated` dataclass.

    text: its help.
    panel: the section of the help that lists it.
    flags: further spellings of its flag.
    aliases: other spellings of a choice, with the choice that is stored.
    off: the value that `--no-NAME` stands for.
    may_change: whether a resumed run accepts another value.
    alone: the value that the flag stands for if no number follows it.
    """
    bounds = {"at least": at_least, "above": above, "at most": at_most, "below": below}
    metadata = {"help": text, "panel": panel, "flags": flags, "aliases": aliases, "off": off, "may_change": may_change}
    metadata |= {"alone": alone}
    return dataclasses.field(
        default=default, metadata=metadata | {"bounds": {name: bound for name, bound in bounds.items() if bound is not None}}
    )


def like(field: dataclasses.Field[Any], default: Any = dataclasses.MISSING) -> Any:
    """A field with the help and range of another class's field, and with its default if none is given."""
    return dataclasses.field(
        default=field.default if default is dataclasses.MISSING else default, metadata=dict(field.metadata)
    )


def choices_of(hint: Any) -> tuple[Any, ...]:
    """The permitted values of a `Literal[...]` or `Literal[...] | None` annotation."""
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    return next((choices for part in typing.get_args(hint) if (choices := choices_of(part))), ())


def base_type(hint: Any) -> type:
    """The scalar type behind an annotation: `float | None` -> float, `Literal["a", "b"]` -> str."""
    if choices := choices_of(hint):
        return type(choices[0])
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
    return hint if isinstance(hint, type) else tuple


def checked(name: str, value: Any, hint: Any, metadata: Mapping[str, Any]) -> Any:
    """`value` converted to the type of `hint` and checked against the choices and bounds; an alias becomes its choice.

    Raises: UserError that names the flag, what was expected and what was given.
    """
    flag = flag_name(name)
    if value is None and types.NoneType in typing.get_args(hint):
        return None
    kind = base_type(hint)
    if kind is tuple:
        return parse_size(value)
    if isinstance(value, int) and value > _LARGEST:
        raise UserError(f"{name} is too large, expected at most {_LARGEST}", flag)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(max(value, -_LARGEST))  # lower values are out of every range too
    if type(value) is not kind:
        raise UserError(f"{name} is {safe_text(repr(value))}, expected {kind.__name__}", flag)
    if isinstance(value, float) and math.isinf(value):
        raise UserError(f"{name} is {value}, expected a finite number", flag)
    if isinstance(value, str) and "\0" in value:
        raise UserError(f"{name} is {safe_text(repr(value))}, which contains a NUL character", flag)
    value = metadata.get("aliases", {}).get(value, value)
    choices = choices_of(hint)
    if choices and value not in choices:
        raise UserError(f"{name} is '{safe_text(value)}', expected one of: {', '.join(choices)}", flag)
    for words, bound in metadata.get("bounds", {}).items():
        if not _HOLDS[words](value, bound):  # false for NaN too
            raise UserError(f"{name} is {value}, expected {words} {bound}", flag)
    return value


class Validated:
    """A frozen dataclass whose fields are checked against their annotation and range on creation."""

    __slots__ = ()

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            if not issubclass(base_type(hints[item.name]), Validated):
                value = checked(item.name, getattr(self, item.name), hints[item.name], item.metadata)
                object.__setattr__(self, item.name, value)
