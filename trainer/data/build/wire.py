"""Dataclasses as JSON, for files that machines pass on to each other.

Not pickles: whoever can write to such a file could run code with those. Types
come from here, never from the file.
"""

import base64
import dataclasses
import functools
import json
import types
import typing


def to_json(value: object) -> str:
    """The text of dataclasses, tuples, lists, bytes, strings and numbers."""
    return json.dumps(_to_plain(value))


def from_json(kind, text: str | bytes):
    """What `to_json` made a text of.

    Args:
        kind: its type, for example `list[Shard]` or `tuple[int, Source]`.
        text: of it.

    Raises:
        ValueError: if it is the text of something else.
    """
    try:
        return _from_plain(kind, json.loads(text))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"It is no {kind} ({error}).") from error


_hints = functools.cache(typing.get_type_hints)


def _to_plain(value):
    if dataclasses.is_dataclass(value):
        return {
            field.name: _to_plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
    if isinstance(value, list | tuple):
        return [_to_plain(part) for part in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value


def _from_plain(kind, value):
    if dataclasses.is_dataclass(kind):
        kinds = _hints(kind)
        return kind(**{k: _from_plain(kinds[k], v) for k, v in value.items()})
    container, parts = typing.get_origin(kind), typing.get_args(kind)
    if container is types.UnionType:
        (other,) = [part for part in parts if part is not types.NoneType]
        return None if value is None else _from_plain(other, value)
    if container in (list, tuple):
        if container is list or parts[-1] is ...:
            parts = parts[:1] * len(value)
        pairs = zip(parts, value, strict=True)
        return container(_from_plain(part, each) for part, each in pairs)
    if kind is bytes:
        return base64.b64decode(value, validate=True)
    # A float may be written as a whole number.
    if not isinstance(value, (int, float) if kind is float else kind):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value
