"""Splits are stratified, keep groups whole, and stay put."""

import collections

import numpy as np
import pytest

from trainer.data.build import leaks, splits

OPTIONS = splits.SplitOptions(0.15, 0.15, seed=0)


def make_images(num_groups=200, seed=0):
    """Group and class names of images in groups of one to four."""
    generator = np.random.default_rng(seed)
    groups, classes = [], []
    for index in range(num_groups):
        size = int(generator.integers(1, 5))
        groups += [f"g{index}"] * size
        classes += ["a" if index % 3 else "b"] * size
    return groups, classes


def split(groups, classes, options=OPTIONS, given=None, previous=None):
    blank = [""] * len(groups)
    return splits.split_images(
        groups, classes, given or blank, previous or blank, options
    )


@pytest.mark.parametrize("seed", range(20))
def test_groups_stay_whole_and_classes_keep_their_shares(seed):
    groups, classes = make_images()
    options = splits.SplitOptions(0.15, 0.15, seed)
    decided = split(groups, classes, options)
    assert len(set(zip(groups, decided, strict=True))) == len(set(groups))
    for class_name in "ab":
        total = classes.count(class_name)
        counts = collections.Counter(
            s for s, c in zip(decided, classes, strict=True) if c == class_name
        )
        # A cut through the line misses its place by half a group of four.
        assert abs(counts["test"] - 0.15 * total) <= 4
        assert abs(counts["validation"] - 0.15 * total) <= 4


def test_same_seed_gives_same_splits_whatever_the_order():
    groups, classes = make_images()
    decided = dict(zip(groups, split(groups, classes), strict=True))
    order = np.random.default_rng(1).permutation(len(groups))
    shuffled = [groups[i] for i in order]
    again = split(shuffled, [classes[i] for i in order])
    assert dict(zip(shuffled, again, strict=True)) == decided
    other = split(groups, classes, splits.SplitOptions(0.15, 0.15, seed=1))
    assert dict(zip(groups, other, strict=True)) != decided


def test_added_images_leave_nearly_all_where_they_were():
    groups, classes = make_images()
    before = dict(zip(groups, split(groups, classes), strict=True))
    more = [f"new{i}" for i in range(20)]
    after = split(groups + more, classes + ["a"] * 20)
    moved = sum(before[g] != s for g, s in zip(groups, after, strict=False))
    assert moved < 0.06 * len(groups)


def test_previous_splits_are_kept_exactly():
    groups, classes = make_images()
    before = split(groups, classes)
    more = [f"new{i}" for i in range(60)]
    previous = before + [""] * 60
    after = split(groups + more, classes + ["a"] * 60, previous=previous)
    assert after[: len(groups)] == before
    assert {"train", "validation", "test"} == set(after[len(groups) :])


def test_group_that_grew_together_goes_to_the_test_split():
    decided = split(
        ["g"] * 2 + [f"h{i}" for i in range(40)],
        ["a", "a"] + ["a", "b"] * 20,
        previous=["train", "test"] + [""] * 40,
    )
    assert decided[:2] == ["test", "test"]


def test_few_groups_still_reach_every_split():
    decided = split(list("uvwxyz"), ["a"] * 3 + ["b"] * 3)
    for part in (decided[:3], decided[3:]):
        assert sorted(part) == ["test", "train", "validation"]


def test_fewer_groups_than_splits_is_refused():
    with pytest.raises(ValueError, match=r"groups of class b .* are only 2"):
        split(list("uvwxy"), ["a"] * 3 + ["b"] * 2)


def test_test_fraction_zero_leaves_the_test_split_empty():
    groups, classes = make_images()
    decided = split(groups, classes, splits.SplitOptions(0.2, 0.0, seed=0))
    assert set(decided) == {"train", "validation"}


def test_validation_is_taken_from_training_if_only_test_is_given():
    groups, classes = make_images()
    given = ["test" if g.endswith("7") else "train" for g in groups]
    decided = split(groups, classes, given=given)
    for before, after in zip(given, decided, strict=True):
        assert (before == "test") == (after == "test")
    share = decided.count("validation") / given.count("train")
    assert share == pytest.approx(0.15, abs=0.03)


def test_every_group_is_tested_in_exactly_one_fold():
    groups, classes = make_images()
    tested = collections.Counter()
    for fold in range(5):
        options = splits.SplitOptions(0.15, 0.15, 0, num_folds=5, fold=fold)
        decided = split(groups, classes, options)
        members = set(zip(groups, decided, strict=True))
        tested.update(group for group, where in members if where == "test")
        assert decided.count("test") == pytest.approx(len(groups) / 5, abs=8)
    assert set(tested.values()) == {1} and set(tested) == set(groups)


@pytest.mark.parametrize(
    "values", [(0.0, 0.1, 0), (0.5, 0.5, 0), (0.1, -0.1, 0), (0.1, 0.1, 0, 1)]
)
def test_impossible_fractions_are_refused(values):
    with pytest.raises(ValueError, match="Received"):
        splits.SplitOptions(*values)


@pytest.mark.parametrize(
    ("on_leak", "expected"),
    [
        ("move", ["test", "test", "train", "test"]),
        ("drop", [leaks.DROPPED, "test", "train", "test"]),
        ("allow", ["train", "test", "train", "test"]),
    ],
)
def test_leak_is_counted_and_its_remedy_spares_the_test_split(
    on_leak, expected
):
    names = ["g", "g", "h", "i"]
    given = ["train", "test", "train", "test"]
    spanning = leaks.find_leaks(names, given)
    assert spanning.groups == ("g",)
    assert spanning.images == {"train": 1, "test": 1}
    assert leaks.resolve(names, given, spanning, on_leak) == expected
    with pytest.raises(ValueError, match=r"1 groups.*1 train, 1 test"):
        leaks.resolve(names, given, spanning, "error")
