"""Patients and copies that belong together."""

from tests.data.builders import make_facts
from trainer.data.build import groups


def test_groups_join_patients_and_copies_transitively():
    facts = [
        make_facts(0, "a", patient_key="p"),
        make_facts(1, "a", patient_key="p", sha256="c" * 64),
        make_facts(2, "a", patient_key="q", sha256="c" * 64),
        make_facts(3, "a", patient_key="q"),
        make_facts(4, "a", patient_key="r"),
    ]
    names = groups.name_groups(facts, groups.join_known(facts))
    assert len(set(names[:4])) == 1
    assert names[4] != names[0]
    assert names[0] == facts[0].sha256[:16] == "0" * 16
