"""Names of files without what may name a patient.

A name may repeat what the header of its file says, in another spelling. Both
are compared by their letters and digits alone, without case and accents, and
with umlauts as one letter or as two.
"""

import functools
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator

# Stands in an image id where it named a patient.
MARK = "\0"
# Shorter texts are only taken out where they stand alone: a patient "7" must
# not cut into every number.
MIN_LENGTH = 4
# Of the digest that an unreadable file is called by.
DIGEST_LENGTH = 12
DIGEST = "sha256-"

# What Unicode does not take apart.
_LETTERS = str.maketrans(
    {"ø": "o", "đ": "d", "ð": "d", "ł": "l", "æ": "ae", "œ": "oe", "þ": "th"}
)
_UMLAUTS = (["a"], ["o"], ["u"])
_DATE = re.compile(r"(\d{4})[-:./]?(\d\d)[-:./]?(\d\d)")
_MONTHS = (
    *("jan", "feb", "mar", "apr", "may", "jun"),
    *("jul", "aug", "sep", "oct", "nov", "dec"),
)
# Files of these kinds hold no header of an examination. All others, and those
# without a kind, may.
_PLAIN_KINDS = "bmp|csv|gif|jpe?g|jp2|json|pdf|png|svg|te?xt|tga|tiff?|webp|xml"
_PLAIN = re.compile(rf".*\.({_PLAIN_KINDS})", re.IGNORECASE)
_KIND = re.compile(rf"(\.({_PLAIN_KINDS}|dcm|ima|nii|gz))*$", re.IGNORECASE)


def hide(name: str, texts: Iterable[str]) -> str:
    """A name with `MARK` wherever it repeats one of some texts.

    Of what begins with a date, the day counts too, in the usual orders.
    """
    kind = _KIND.search(name)[0]
    name = name.removesuffix(kind)
    hidden = [False] * len(name)
    spellings = {s for text in texts for s in (text, *_spell_date(text))}
    for umlauts in (True, False):
        folded, places = _fold(name, umlauts)
        for spelling in spellings:
            wanted, _ = _fold(spelling, umlauts)
            for start in _find(folded, wanted):
                first, last = places[start], places[start + len(wanted) - 1]
                around = name[:first][-1:] + name[last + 1 :][:1]
                if len(wanted) >= MIN_LENGTH or not _fold(around, umlauts)[0]:
                    hidden[first : last + 1] = [True] * (last + 1 - first)
    marked = "".join(
        MARK if is_hidden else letter
        for letter, is_hidden in zip(name, hidden, strict=True)
    )
    # Nor does the number of words matter.
    return re.sub(rf"{MARK}([\W_]*{MARK})*", MARK, marked) + kind


def repeats(text: str, identifier: str) -> bool:
    """Whether a text repeats an identifier, however it is spelled."""
    return MARK in hide(text, (identifier,))


def _find(text: str, wanted: str) -> Iterator[int]:
    start = text.find(wanted)
    while wanted and start >= 0:
        yield start
        start = text.find(wanted, start + 1)


@functools.lru_cache(maxsize=4096)
def _fold(text: str, umlauts: bool) -> tuple[str, tuple[int, ...]]:
    """The letters and digits that all spellings share, and where they stood.

    Args:
        text: of a name or a header.
        umlauts: take `ae`, `oe` and `ue` for one letter.
    """
    letters, places = [], []
    for place, character in enumerate(text):
        plain = character.casefold().translate(_LETTERS)
        for letter in unicodedata.normalize("NFKD", plain):
            is_second = letter == "e" and letters[-1:] in _UMLAUTS
            if letter.isalnum() and not (umlauts and is_second):
                letters.append(letter)
                places.append(place)
    return "".join(letters), tuple(places)


def _spell_date(text: str) -> list[str]:
    """How names of files write the date that a text begins with."""
    match = _DATE.match(text)
    if not match:
        return []
    year, month, day = match.groups()
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return []
    name = _MONTHS[int(month) - 1]
    # Fewer digits than six would be found in any number.
    forms = [(year, month.lstrip("0"), day.lstrip("0")), (year, name, day)]
    forms += [(year, month, day), (year[2:], month, day), (year[2:], name, day)]
    forms += [(year, name, day.lstrip("0")), (year, month.lstrip("0"), day)]
    return [
        "-".join(parts)
        for y, m, d in forms
        for parts in ((y, m, d), (d, m, y), (m, d, y))
    ]


def is_plain(image_id: str) -> bool:
    """Whether a path is that of a file that names no patient in its header."""
    return MARK not in image_id and bool(_PLAIN.fullmatch(image_id))


def name_by_content(class_name: str, index: int, data: bytes | None) -> str:
    """A name that says nothing, by which the owner finds the file.

    It is the digest of the file, or its place among all if there is no data.
    """
    if data is None:
        return f"{class_name}/file-{index + 1}"
    digest = hashlib.sha256(data).hexdigest()
    return f"{class_name}/{DIGEST}{digest[:DIGEST_LENGTH]}"
