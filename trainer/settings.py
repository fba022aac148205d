"""How a setting is declared, and what its values may be."""

import dataclasses
import json
from typing import Any

# How far the values of a setting may differ: `varies`.
BETWEEN_WORKERS = "between workers"
BETWEEN_STARTS = "between starts"


def setting(
    default: Any,
    help_text: str,
    between: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
    varies: str = "",
) -> Any:
    """A setting, declared once.

    Args:
        default: of the flag.
        help_text: of the flag.
        between: smallest and largest value, both allowed; None: any.
        choices: the values allowed; none: any.
        varies: `BETWEEN_STARTS` if a continuation may change it;
            `BETWEEN_WORKERS` if the workers of a run may differ too.
    """
    return dataclasses.field(
        default=default,
        metadata={
            "help": help_text,
            "between": between,
            "choices": choices,
            "varies": varies,
        },
    )


def check_type(field: dataclasses.Field, value: Any) -> None:
    """Raises ValueError unless a setting of a file is of its type."""
    name, kind = field.name, field.type
    # Numbers as in JSON: 1 may stand for 1.0, but true for neither.
    kinds: dict[Any, tuple[Any, str]] = {
        bool: (bool, "true or false"),
        int: (int, "a whole number"),
        float: ((int, float), "a number"),
        str: (str, "a text"),
    }
    lists = (list, tuple), "a list of whole numbers"
    accepted, wanted = kinds.get(kind, lists)
    parts = value if isinstance(value, list | tuple) else []
    is_bool = isinstance(value, bool) and kind is not bool
    are_wrong = any(type(part) is not int for part in parts)
    if not isinstance(value, accepted) or is_bool or are_wrong:
        raise ValueError(
            f"{name} must be {wanted}. Received: {name}={json.dumps(value)}."
        )


def check(field: dataclasses.Field, value: Any) -> None:
    """Raises ValueError if a value is out of range, or not one of those."""
    check_type(field, value)
    between, choices = field.metadata["between"], field.metadata["choices"]
    if between and not between[0] <= value <= between[1]:
        raise ValueError(
            f"--{field.name} must be between {between[0]} and {between[1]}. "
            f"Received: {field.name}={value}."
        )
    if choices and value not in choices:
        raise ValueError(
            f"--{field.name} must be one of {', '.join(choices)}. "
            f"Received: {field.name}={value}."
        )
