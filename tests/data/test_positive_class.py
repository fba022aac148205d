"""The finding is the positive class, however its absence is called."""

import pytest

from trainer.data.build import positive_class

DECIDED = [
    # positive, negative
    ("tumor", "no_tumor"),
    ("Tumor", "notumor"),
    ("tumors", "NoTumor"),
    ("Parasitized", "Uninfected"),
    ("CT_COVID", "CT_NonCOVID"),
    ("COVID", "nonCOVID"),
    ("COVID-19", "noncovid"),
    ("case", "control"),
    ("cancer", "control"),
    ("Demented", "NonDemented"),
    ("Demented", "Non Demented"),
    ("fractured", "unfractured"),
    ("Melanoma", "NotMelanoma"),
    ("Sick", "Well"),
    ("DR", "No_DR"),
    ("yes", "no"),
    ("1", "0"),
    ("covid_pos", "covid_neg"),
    ("AD", "CN"),
    ("nodule", "normal"),
    ("nodule", "none"),
    ("glaucoma", "without glaucoma"),
    ("tumor", "tumor_free"),
    ("unhealthy", "healthy"),
    ("abnormal", "Normal"),
    ("abnormal", "not-abnormal"),
    ("not_normal", "normal"),
    ("lesion", "healthy"),
    ("malignant", "benign"),
    ("adenocarcinoma", "benign"),
    ("benign", "normal"),
]


@pytest.mark.parametrize(("positive", "negative"), DECIDED)
def test_name_of_the_healthy_class_decides(positive, negative):
    for names in ((positive, negative), (negative, positive)):
        assert positive_class.choose(names) == (positive, False)


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("cat", "unicorn"),
        ("aorta", "notch"),
        ("ilateral", "unit"),
        ("nodule", "normality"),
        ("free_fluid", "pleura"),
        ("no_finding", "normal"),
    ],
)
def test_names_that_say_nothing_are_a_guess(first, last):
    for names in ((first, last), (last, first)):
        assert positive_class.choose(names) == (last, True)
    printed = positive_class.describe((first, last), last, False)
    assert printed.startswith(f"positive class: {last} (--positive_class")
    assert "guess" in printed
    assert "guess" not in positive_class.describe((first, last), first, True)


def test_three_classes_have_no_positive_one():
    assert positive_class.choose(("a", "b", "no_b")) == (None, False)
