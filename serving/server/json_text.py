"""TF Serving's reading of JSON: what a body may be, and what is said if not.

Rules and messages follow TF Serving's `util/json_tensor.cc` and RapidJSON,
which it parses with. One deliberate difference: an offending value is quoted
up to `MAX_QUOTED` characters, since it may be a whole image.
"""

import base64
import binascii
import json
import re

from serving import status_codes

MAX_QUOTED = 1024

_TYPE_NAMES = {
    type(None): "Null",
    dict: "Object",
    list: "Array",
    str: "String",
    int: "Number",
    float: "Number",
}
# RapidJSON's words for Python's.
_PARSE_ERRORS = {
    "Expecting value": "Invalid value.",
    "Expecting property name enclosed in double quotes": (
        "Missing a name for object member."
    ),
    "Illegal trailing comma before end of object": (
        "Missing a name for object member."
    ),
    "Illegal trailing comma before end of array": "Invalid value.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Unterminated string starting at": (
        "Missing a closing quotation mark in string."
    ),
    "Invalid control character at": "Invalid encoding in string.",
    "Invalid \\escape": "Invalid escape character in string.",
    "Invalid \\uXXXX escape": (
        "Incorrect hex digit after \\u escape in string."
    ),
}


def parse(body: bytes) -> dict:
    """Returns the JSON object that a request body starts with.

    Strings keep bytes that are not UTF-8 as surrogate escapes, because TF
    Serving hands them to the model as they came.

    Raises:
        StatusError: the body does not start with a JSON object.
    """
    if not body:
        raise status_codes.invalid_argument(
            "JSON Parse error: The document is empty"
        )
    text = body.decode("utf-8", "surrogateescape").lstrip("\ufeff \t\r\n")
    skipped = len(body) - len(text.encode("utf-8", "surrogateescape"))
    if not text:
        raise _parse_error("The document is empty.", skipped)
    try:
        document, _ = json.JSONDecoder(strict=True).raw_decode(text)
    except json.JSONDecodeError as error:
        reason = _PARSE_ERRORS.get(error.msg) or _missing_comma(
            text[: error.pos]
        )
        read = len(text[: error.pos].encode("utf-8", "surrogateescape"))
        raise _parse_error(reason, skipped + read) from error
    except ValueError as error:  # An integer of more digits than Python reads.
        raise _parse_error(
            "Number too big to be stored in double.", skipped
        ) from error
    except RecursionError as error:
        raise _parse_error("Nested too deeply.", skipped) from error
    if not isinstance(document, dict):
        raise format_error(document, "Is not object")
    return document


def signature_name(document: dict) -> str:
    """Returns the `signature_name` of a request, empty if it has none."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise format_error(
            document,
            "not formatted correctly. 'signature_name' key must be a string "
            "value.",
        )
    return to_name(name)


def decode_base64(value: dict) -> bytes:
    """Returns the bytes of a `{"b64": "..."}` object."""
    if not is_base64_object(value):
        raise format_error(value, "not formatted correctly for base64 data")
    text = value["b64"].replace("\n", "").replace("\r", "")
    try:
        # As absl does, take the padding or its absence.
        padding = "=" * (-len(text.rstrip("=")) % 4)
        return base64.b64decode(text.rstrip("=") + padding, validate=True)
    # ValueError: characters outside ASCII.
    except (binascii.Error, ValueError) as error:
        raise status_codes.invalid_argument(
            "Unable to base64 decode"
        ) from error


def is_base64_object(value) -> bool:
    """Returns whether `value` is an object with the one key `b64`."""
    return (
        isinstance(value, dict)
        and len(value) == 1
        and isinstance(value.get("b64"), str)
    )


def quote(value) -> str:
    """Returns a JSON value as text for an error message."""
    text = json.dumps(value, indent=4, ensure_ascii=False)
    if len(text) > MAX_QUOTED:
        text = text[:MAX_QUOTED] + "..."
    return text.encode("utf-8", "replace").decode("utf-8")


def type_name(value) -> str:
    """Returns RapidJSON's name for the type of a JSON value."""
    if isinstance(value, bool):
        return str(value)
    return _TYPE_NAMES[type(value)]


def to_bytes(text: str) -> bytes:
    """Returns a parsed string's bytes, as they stood in the body."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise status_codes.invalid_argument(
            "JSON Parse error: The surrogate pair in string is invalid."
        ) from error


def to_name(text: str) -> str:
    """Returns a parsed string as a name, which must be valid UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def format_error(value, problem: str) -> status_codes.StatusError:
    """Returns the error of a value that is not of the expected form."""
    return status_codes.invalid_argument(
        f"JSON Value: {quote(value)} {problem}"
    )


def _parse_error(reason: str, offset: int) -> status_codes.StatusError:
    return status_codes.invalid_argument(
        f"JSON Parse error: {reason} at offset: {offset}"
    )


def _missing_comma(text: str) -> str:
    """Names the innermost bracket that is open at the end of `text`."""
    depth = 0
    for bracket in reversed(re.sub(r'"(\\.|[^"\\])*"', "", text)):
        depth += (bracket in "}]") - (bracket in "{[")
        if depth < 0:
            if bracket == "[":
                return "Missing a comma or ] after an array element."
            break
    return "Missing a comma or } after an object member."
