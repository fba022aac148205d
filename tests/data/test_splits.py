"""Splits are stratified, keep groups whole, and stay put."""

import collections

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data import records
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


@st.composite
def image_sets(draw, num_groups=3):
    """Group and class names of images: so many groups of each class, or more,
    some of which have an image of another class.
    """
    images = []
    for name in "abc"[: draw(st.integers(2, 3))]:
        sizes = st.lists(st.integers(1, 5), min_size=num_groups, max_size=40)
        for i, size in enumerate(draw(sizes)):
            images += [(f"{name}{i}", name)] * size
            if size > 2 and not draw(st.integers(0, 5)):
                images.append((f"{name}{i}", "a"))
    draw(st.randoms(use_true_random=False)).shuffle(images)
    return zip(*images, strict=True)


def by_group(groups, decided):
    """The split of every group, which is one for all of its images."""
    pairs = set(zip(groups, decided, strict=True))
    assert len(pairs) == len(set(groups))
    return dict(pairs)


@given(
    image_sets(),
    st.floats(0.05, 0.4),
    st.just(0.0) | st.floats(0.05, 0.4),
    st.integers(0, 99),
)
def test_any_images_are_split_by_whole_groups_in_their_shares(
    images, validation_fraction, test_fraction, seed
):
    groups, classes = images
    options = splits.SplitOptions(validation_fraction, test_fraction, seed)
    decided = split(groups, classes, options)
    whole = by_group(groups, decided)
    wanted = options.fractions(test_fraction)
    for class_name in set(classes):
        of_class = [
            s for s, c in zip(decided, classes, strict=True) if c == class_name
        ]
        for name in records.SPLITS:
            count = of_class.count(name)
            # Two cuts, each of which misses its place by half a group of six,
            # and the images in groups of other classes.
            others = sum(
                c == class_name != g[0]
                for g, c in zip(groups, classes, strict=True)
            )
            assert abs(count - wanted[name] * len(of_class)) <= 9 + others
            assert bool(count) == bool(wanted[name])
    # Neither the order of the images nor what was decided changes anything.
    again = split(groups[::-1], classes[::-1], options)
    assert by_group(groups[::-1], again) == whole
    assert split(groups, classes, options, previous=decided) == decided
    # What is known stays where it is, and what is new goes anywhere.
    known = [
        s if int(g[1:]) % 2 else ""
        for g, s in zip(groups, decided, strict=True)
    ]
    later = by_group(groups, split(groups, classes, previous=known))
    assert all(later[g] == whole[g] for g in whole if int(g[1:]) % 2)


@given(image_sets(num_groups=7), st.integers(2, 5), st.integers(0, 99))
def test_every_group_is_tested_in_exactly_one_fold(images, num_folds, seed):
    groups, classes = images
    tested = collections.Counter()
    for fold in range(num_folds):
        options = splits.SplitOptions(0.15, 0.15, seed, num_folds, fold)
        decided = by_group(groups, split(groups, classes, options))
        assert set(decided.values()) == set(records.SPLITS)
        tested.update(g for g, where in decided.items() if where == "test")
    assert tested == collections.Counter(set(groups))


def test_another_seed_gives_another_split():
    groups, classes = make_images()
    other = splits.SplitOptions(0.15, 0.15, seed=1)
    assert split(groups, classes) != split(groups, classes, other)


def test_added_images_leave_nearly_all_where_they_were():
    groups, classes = make_images()
    before = dict(zip(groups, split(groups, classes), strict=True))
    more = [f"new{i}" for i in range(20)]
    after = split(groups + more, classes + ["a"] * 20)
    moved = sum(before[g] != s for g, s in zip(groups, after, strict=False))
    assert moved < 0.06 * len(groups)


def test_group_that_grew_together_goes_to_the_test_split():
    decided = split(
        ["g"] * 2 + [f"h{i}" for i in range(40)],
        ["a", "a"] + ["a", "b"] * 20,
        previous=["train", "test"] + [""] * 40,
    )
    assert decided[:2] == ["test", "test"]


def test_fewer_groups_than_splits_is_refused():
    with pytest.raises(ValueError, match=r"groups of class b .* are only 2"):
        split(list("uvwxy"), ["a"] * 3 + ["b"] * 2)


def test_validation_is_taken_from_training_if_only_test_is_given():
    groups, classes = make_images()
    given = ["test" if g.endswith("7") else "train" for g in groups]
    decided = split(groups, classes, given=given)
    for before, after in zip(given, decided, strict=True):
        assert (before == "test") == (after == "test")
    share = decided.count("validation") / given.count("train")
    assert share == pytest.approx(0.15, abs=0.03)


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
