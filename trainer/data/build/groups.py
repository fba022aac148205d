"""Groups of images that must share a split: patients and copies, joined.

If a patient's image is a copy of another patient's, both belong together, so
groups are the connected components of "same patient", "same file", "same
pixels" and "near-duplicate". Where no patient is known, the series of a DICOM
file or a sub-folder of the class stands for one.
"""

import collections
import dataclasses
from collections.abc import Hashable, Iterable, Iterator, Sequence

from trainer.data.build import pseudonyms, scan, sources


class UnionFind:
    """Sets of indices that can be joined."""

    def __init__(self, size: int):
        self._parents = list(range(size))

    def find(self, index: int) -> int:
        """The representative of the set of an index."""
        while self._parents[index] != index:
            self._parents[index] = self._parents[self._parents[index]]
            index = self._parents[index]
        return index

    def join(self, first: int, second: int) -> None:
        first, second = self.find(first), self.find(second)
        self._parents[max(first, second)] = min(first, second)

    def join_sharing(self, keys: Iterable[Iterable[Hashable]]) -> None:
        """Joins the indices that have a key in common."""
        seen = {}
        for index, of_index in enumerate(keys):
            for key in of_index:
                self.join(seen.setdefault(key, index), index)


def join_known(facts: Sequence[scan.ImageFacts]) -> UnionFind:
    """Joins images of one patient, of one file, or with the same pixels."""
    sets = UnionFind(len(facts))
    sets.join_sharing(map(_ties, facts))
    return sets


def _ties(fact: scan.ImageFacts) -> Iterator[Hashable]:
    """What an image shares with its copies, and others of its patient."""
    yield content_key(fact)
    # The slices of a volume show one patient.
    yield fact.source_index
    yield from fact.kin_of(sources.CASE)
    if fact.patient_key:
        yield fact.patient_key
    else:
        yield from fact.kin_of(sources.FOLDER, scan.UID)


def content_key(fact: scan.ImageFacts) -> str:
    """What copies share. Of masks there are none: many are all black."""
    if fact.kin_of(sources.MASK):
        return f"{sources.MASK}{fact.image_id}{fact.suffix}"
    return fact.sha256


def drop_common_patient(
    facts: Sequence[scan.ImageFacts],
) -> Sequence[scan.ImageFacts]:
    """Facts without a patient id that all files carry, so that it names none.

    It stays if the files have no UIDs to go by instead, or have all the same.
    """
    has_uids = all(fact.kin_of(scan.UID) for fact in facts)
    patients = {fact.patient_key for fact in facts}
    if len(patients) != 1 or patients == {""} or not has_uids:
        return facts
    without = [dataclasses.replace(fact, patient_key="") for fact in facts]
    sets = join_known(without)
    is_one = len({sets.find(i) for i in range(len(facts))}) == 1
    return facts if is_one else without


def name_groups(facts: Sequence[scan.ImageFacts], sets: UnionFind) -> list[str]:
    """Names the group of every image.

    A name comes from the pixels of the group: the same images have the same
    name in every build, and no patient id goes into it.
    """
    return _name_by_content(facts, [sets.find(i) for i in range(len(facts))])


def make_image_ids(facts: Sequence[scan.ImageFacts]) -> list[str]:
    """Unique ids: relative paths, with pseudonyms for patient ids."""
    # Of an unknown patient the file stands for one.
    keys = [fact.patient_key or fact.source_index for fact in facts]
    names = _name_by_content(facts, keys)
    ids, taken = [], collections.Counter()
    for fact, name in zip(facts, names, strict=True):
        pseudonym = f"patient-{name[:10]}"
        image_id = fact.image_id.replace(pseudonyms.MARK, pseudonym)
        image_id += fact.suffix
        taken[image_id] += 1
        # Two patients may have a name in common, if they share an image.
        copy = taken[image_id]
        ids.append(image_id if copy == 1 else f"{image_id}~{copy}")
    return ids


def _name_by_content(
    facts: Sequence[scan.ImageFacts], keys: Sequence[Hashable]
) -> list[str]:
    smallest = {}
    for fact, key in zip(facts, keys, strict=True):
        content = content_key(fact)
        smallest[key] = min(smallest.get(key, content), content)
    return [smallest[key][:16] for key in keys]
