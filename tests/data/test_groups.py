"""Patients and copies that belong together."""

from trainer.data.build import groups, scan


def make_facts(index, class_name, **changes):
    values = {
        "image_id": f"{class_name}/{index}.png",
        "suffix": "",
        "class_name": class_name,
        "split": "",
        "source_index": index,
        "patient_key": "",
        "sha256": f"{index:x}".ljust(64, "0"),
        "width": 100,
        "height": 100,
        "channels": 1,
        "source_format": "png",
        "bit_depth": 8,
        "quality": 0,
        "num_bytes": 5000,
        "file_sha256": "",
        "kept_format": "png",
        "training_bytes": (5000, 5000),
        "mean_brightness": 50.0,
        "border_brightness": 0.0,
    }
    return scan.ImageFacts(**{**values, **changes})


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
