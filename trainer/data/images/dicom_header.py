"""What the header of a DICOM file says of whom it shows, and when and where.

None of it may be written anywhere. It groups images, and is compared with the
names of the files. Attributes come and go with editions of DICOM PS3.15, Annex
E, whose basic profile takes hundreds out, and private ones name people too: so
all texts count, at any depth, but for codes with a fixed meaning.
"""

import re
from collections.abc import Iterator

from pydicom import dataelem

# What anonymizers write instead of a patient id: it names nobody.
_NO_PATIENT = {
    *("", "0", "anon", "anonymised", "anonymized", "anonymous"),
    *("deidentified", "na", "none", "patient", "unknown"),
}
_TEXTS = (
    *("AE", "AS", "DA", "DT", "LO", "LT", "PN", "SH", "ST"),
    *("TM", "UC", "UI", "UN", "UR", "UT"),
)
_CODES = {
    *("CodeMeaning", "CodeValue", "CodingSchemeDesignator"),
    *("CodingSchemeVersion", "LongCodeValue", "Manufacturer"),
}
# Any text of a patient counts, of others those of some letters.
_PATIENT_GROUP = 0x0010
_IDS = ("AccessionNumber", "AdmissionID")
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
        for element in _list_elements(part or ()):
            for text in _texts_of(element):
                if not _is_nobody(text):
                    found[text] = None
    return tuple(found)


def _list_elements(dataset) -> Iterator[dataelem.DataElement]:
    for tag in getattr(dataset, "keys", tuple)():
        raw = dataset.get_item(tag)
        # Of implicit files it is known once the element is decoded.
        kind = raw.VR
        if kind is not None and kind not in (*_TEXTS, "SQ", "DS"):
            continue
        try:
            element = dataset[tag]
        # A damaged element says nothing, whatever pydicom makes of it.
        except Exception:
            continue
        if element.VR == "SQ":
            for item in element.value or ():
                yield from _list_elements(item)
        elif element.keyword not in _CODES:
            yield element


def _texts_of(element: dataelem.DataElement) -> Iterator[str]:
    """Its values, and the words of each."""
    is_of_patient = element.tag.group == _PATIENT_GROUP
    if element.VR not in _TEXTS and not (is_of_patient and element.VR == "DS"):
        return
    value = element.value
    if isinstance(value, bytes):
        value = value[:_MAX_UNKNOWN].decode("utf-8", "ignore")
    is_list = not isinstance(value, str) and hasattr(value, "__iter__")
    for text in map(str, value if is_list and element.VR != "PN" else [value]):
        words = re.findall(r"[^\W_]+", text)
        if element.VR == "UI":
            # Files are called by all of it, or by its last number.
            words = words[-1:]
            if text.startswith(_STANDARD_UID):
                continue
        is_short = len(text) < _MIN_LENGTH
        if not is_short or is_of_patient or element.keyword in _IDS:
            yield text
        if element.VR == "PN":
            yield "".join(reversed(words))
            # Those with an apostrophe or a hyphen are one, too.
            yield from (*words, *re.split(r"[\s^=,;]+", text))
        if element.VR == "AS":
            yield text.lstrip("0")
        if element.VR == "TM":
            yield text[:6]
        yield from (word for word in words if len(word) >= _MIN_WORD)


def _is_nobody(text: str) -> bool:
    plain = "".join(c for c in text.lower() if c.isalnum())
    return plain in _NO_PATIENT
