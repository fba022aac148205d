"""What the header of a DICOM file says of whom it shows, and when and where.

None of it may be written anywhere. It groups images, and is compared with the
names of the files. Attributes come and go with editions of DICOM PS3.15, Annex
E, whose basic profile takes hundreds out, and private ones name people too: so
all texts count, at any depth, but for codes with a fixed meaning.
"""

import contextlib
import re
from collections.abc import Iterator

from pydicom import datadict, valuerep

# What anonymizers write instead of a patient id: it names nobody.
_NO_PATIENT = {
    *("", "0", "anon", "anonymised", "anonymized", "anonymous"),
    *("deidentified", "na", "none", "patient", "unknown"),
}
_TEXTS = {
    *("AE", "AS", "DA", "DS", "DT", "LO", "LT", "PN", "SH"),
    *("ST", "TM", "UC", "UI", "UN", "UR", "UT"),
}
_CODES = {
    datadict.tag_for_keyword(name)
    for name in (
        *("CodeMeaning", "CodeValue", "CodingSchemeDesignator"),
        *("CodingSchemeVersion", "LongCodeValue", "Manufacturer"),
    )
}
# Any text of a patient counts, of others those of some letters.
_PATIENT_GROUP = 0x0010
_IDS = {
    datadict.tag_for_keyword(name)
    for name in ("AccessionNumber", "AdmissionID")
}
_MIN_LENGTH = 3
_MIN_WORD = 4
_STANDARD_UID = "1.2.840.10008."
# Longer bytes of an unknown element are no text.
_MAX_UNKNOWN = 1024


def patient_id(dataset) -> str:
    """PatientID, "" if it names nobody."""
    text = str(dataset.get("PatientID") or "").strip()
    return "" if _is_nobody(text) else text


def uids(dataset) -> tuple[str, ...]:
    """What only images of one patient have in common."""
    names = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
    found = (str(dataset.get(name) or "") for name in names)
    # The standard's own are of atlases, which many patients are brought to.
    return tuple(u for u in found if u and not u.startswith(_STANDARD_UID))


def list_texts(dataset) -> tuple[str, ...]:
    """All that the name of a file could repeat of its header."""
    found = {}
    for part in (dataset.get("file_meta"), dataset):
        for tag, kind, value in _list_values(part):
            for text in _texts_of(tag, kind, value):
                if not _is_nobody(text):
                    found[text] = None
    return tuple(found)


def _list_values(dataset) -> Iterator[tuple[int, str, str]]:
    """Tag, value representation and each text of all elements."""
    for tag in () if dataset is None else list(dataset.keys()):
        # A damaged element says nothing, whatever pydicom makes of it.
        with contextlib.suppress(Exception):
            raw = dataset.get_item(tag)
            # Implicit files do not say it, and nobody that of private elements.
            known = datadict.dictionary_has_tag(tag)
            kind = raw.VR or (datadict.dictionary_VR(tag) if known else "UN")
            if kind == "SQ":
                for item in dataset[tag].value or ():
                    yield from _list_values(item)
            elif kind in _TEXTS and tag not in _CODES:
                for text in _split(dataset, tag, raw.value):
                    yield int(tag), kind, text


def _split(dataset, tag: int, value) -> list[str]:
    """The values of an element, of plain ones without pydicom: it is slow."""
    is_raw = isinstance(value, bytes)
    # The escape begins other letters.
    if is_raw and not (value.isascii() and b"\x1b" not in value):
        value = dataset[tag].value
    if isinstance(value, bytes):
        value = value[:_MAX_UNKNOWN].decode("utf-8", "ignore")
    is_list = not isinstance(value, str | valuerep.PersonName)
    if is_list and hasattr(value, "__iter__"):
        return [str(each) for each in value]
    return [text.strip(" \0") for text in str(value).split("\\")]


def _texts_of(tag: int, kind: str, text: str) -> Iterator[str]:
    """A value, and the words of it."""
    is_of_patient = tag >> 16 == _PATIENT_GROUP
    if kind == "DS" and not is_of_patient:
        return
    words = re.findall(r"[^\W_]+", text)
    if kind == "UI":
        # Files are called by all of it, or by its last number.
        words = words[-1:]
        if text.startswith(_STANDARD_UID):
            return
    if len(text) >= _MIN_LENGTH or is_of_patient or tag in _IDS:
        yield text
    if kind == "PN":
        yield "".join(reversed(words))
        # Those with an apostrophe or a hyphen are one, too.
        yield from (*words, *re.split(r"[\s^=,;]+", text))
    if kind == "AS":
        yield text.lstrip("0")
    if kind == "TM":
        yield text[:6]
    yield from (word for word in words if len(word) >= _MIN_WORD)


def _is_nobody(text: str) -> bool:
    plain = "".join(c for c in text.lower() if c.isalnum())
    return plain in _NO_PATIENT
