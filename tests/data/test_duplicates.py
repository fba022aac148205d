"""Planted copies are found, look-alikes are not."""

import numpy as np
import pytest

from tests.data.builders import COPIES, HEAD, make_facts, make_head
from tests.samples import SHARED
from trainer.data.build import (
    alignment,
    candidates,
    duplicates,
    groups,
    scan,
    splits,
    views,
)
from trainer.data.images import readers
from trainer.data.images.image import pixel_sha256

BRAIN = SHARED / "data" / "brain_mri_253"


OTHERS = [make_head(seed) for seed in range(1, 40)]


def make_thumbnails(images):
    return np.stack([scan.make_thumbnail(image) for image in images])


def find_pairs(images, num_workers=1):
    sets = groups.UnionFind(len(images))
    thumbnails = make_thumbnails(images)
    return duplicates.find_near_duplicates(thumbnails, sets, num_workers), sets


SEEN_OTHERWISE = {
    "mirrored": HEAD[:, ::-1],
    "upside down": HEAD[::-1, ::-1],
    "transposed": HEAD.T,
    "turned left": np.rot90(HEAD),
    "turned right": np.rot90(HEAD, -1),
    "5 % off every side": HEAD[8:-8, 8:-8],
    "10 % off two sides": HEAD[16:, :-16],
    "10 % off every side": HEAD[16:-16, 16:-16],
}


@pytest.mark.parametrize("name", [*COPIES, *SEEN_OTHERWISE])
def test_planted_copy_is_found_among_other_heads(name):
    copy = np.ascontiguousarray({**COPIES, **SEEN_OTHERWISE}[name])
    for images in ([HEAD, *OTHERS, copy], [copy, *OTHERS, HEAD]):
        pairs, _ = find_pairs(images)
        assert [(p.first, p.second) for p in pairs] == [(0, 40)]


def test_neighbouring_slices_are_not_merged_even_if_mirrored_or_cropped():
    slices = [make_head(0, height) for height in (0.0, 1.0, 2.0)]
    mirrored = np.ascontiguousarray(make_head(0, 3.0)[:, ::-1])
    cropped = make_head(0, 4.0)[8:-8, 8:-8]
    assert find_pairs([*slices, mirrored, cropped, *OTHERS])[0] == []


def test_turned_strangers_are_no_candidates_for_being_turned():
    # Among upright images all turned ones are alike.
    slope = np.linspace(0, 60, 64).astype(np.uint8)[:, None]
    heads = [make_head(seed, size=64) // 2 + slope for seed in range(60)]
    images = [*heads[:50], *(np.rot90(head) for head in heads[50:])]
    thumbnails = make_thumbnails(list(map(np.ascontiguousarray, images)))
    assert len(candidates.find_seen_otherwise(thumbnails)) < 60


@pytest.mark.parametrize("view", views.OTHERS)
def test_view_is_seen_coarsely_and_laid_back(view):
    image = scan.make_thumbnail(HEAD)[None]
    turned = np.ascontiguousarray(view.orient(image))
    np.testing.assert_array_equal(view.reverse.orient(turned), image)
    # What `cutting` cuts out of all is what is seen.
    smooth = duplicates._blur(turned.astype(np.float32), 3)
    cut = alignment.warp(smooth, view.cutting[None])
    coarse = views.AS_IT_IS.shrink(cut)
    seen = view.shrink(duplicates._blur(image.astype(np.float32), 3))
    np.testing.assert_allclose(coarse, seen, atol=1)
    np.testing.assert_allclose(
        alignment.warp(cut, view.laying[None])[:, 13:-13, 13:-13],
        smooth[:, 13:-13, 13:-13],
        atol=1,
    )


def test_crop_is_confirmed_if_either_fits_onto_the_other(monkeypatch):
    def agree(firsts, _, middle):
        assert len(firsts) == len(middle)
        fits = np.where(middle[:, 0] < 0, 0.95, 0.1)
        return fits, fits.copy()

    monkeypatch.setattr(duplicates, "measure_agreement", agree)
    heads = make_thumbnails([HEAD] * 3)
    pairs = [(4, 5, views.AS_IT_IS), (0, 1, views.OTHERS[-1])]
    pairs.append((2, 3, views.OTHERS[0]))
    assert duplicates._confirm((pairs, heads, heads)) == [(0, 1, 0.95)]


def test_a_chain_of_copies_is_one_group():
    images = [HEAD, COPIES["re-encoded"], COPIES["brighter"], OTHERS[0]]
    pairs, sets = find_pairs(images)
    assert len(pairs) == 2
    assert len({sets.find(i) for i in range(3)}) == 1
    assert sets.find(3) == 3


def test_blank_images_and_single_image_have_no_near_duplicates():
    blank = np.zeros((50, 50), np.uint8)
    assert find_pairs([blank, blank + 9, HEAD])[0] == []
    assert find_pairs([HEAD])[0] == []


def test_candidates_of_many_images_include_all_copies(monkeypatch):
    # More than one cell of the partition.
    monkeypatch.setattr(candidates, "MAX_EXHAUSTIVE", 100)
    heads = [make_head(seed, size=64) for seed in range(600)]
    copies = [
        np.clip(h.astype(int) + 9, 0, 255).astype(np.uint8) for h in heads[:60]
    ]
    features = candidates.coarse_features(make_thumbnails(heads + copies))
    found = candidates.find_alike(features)
    pairs = {(first, second) for first, second, _ in found}
    assert {(i, 600 + i) for i in range(60)} <= pairs
    assert len(pairs) < 10_000


def test_candidates_grow_no_faster_than_the_images():
    # All alike but for noise, as the slices of many heads at one height.
    generator = np.random.default_rng(0)
    features = generator.normal(0, 0.3, (900, 256)).astype(np.float32) + 1
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    for num_images in (300, 900):
        found = candidates.find_alike(features[:num_images])
        assert len(found) <= 8 * num_images


def test_agreement_of_a_pair_does_not_depend_on_its_block():
    heads = [HEAD, *OTHERS[:5]]
    firsts = make_thumbnails([HEAD] * 6 + heads)
    seconds = make_thumbnails([*COPIES.values(), *reversed(heads)])
    overall, worst = duplicates.measure_agreement(firsts, seconds)
    for i in range(12):
        alone = duplicates.measure_agreement(
            firsts[i : i + 1], seconds[i : i + 1]
        )
        np.testing.assert_allclose(alone[0], overall[i], atol=1e-5)
        np.testing.assert_allclose(alone[1], worst[i], atol=1e-5)


def test_workers_find_the_same_pairs(monkeypatch):
    monkeypatch.setattr(duplicates, "MIN_PAIRS_FOR_WORKERS", 2)
    monkeypatch.setattr(duplicates, "PAIRS_PER_BLOCK", 2)
    images = [*COPIES.values(), *OTHERS[:19]]
    pairs, _ = find_pairs(images, 2)
    assert pairs == find_pairs(images, 1)[0] and len(pairs) == 5


@pytest.mark.skipif(not BRAIN.exists(), reason="brain_mri_253 is not here")
def test_brain_mri_253_has_no_group_across_splits_for_20_seeds():
    paths = sorted(BRAIN.glob("*/*"))
    images = [readers.read_images(str(path))[0].pixels for path in paths]
    classes = [path.parent.name for path in paths]
    facts = [
        make_facts(i, c, sha256=pixel_sha256(image))
        for i, (c, image) in enumerate(zip(classes, images, strict=True))
    ]
    sets = groups.join_known(facts)
    pairs = duplicates.find_near_duplicates(make_thumbnails(images), sets)
    assert 20 <= len(pairs) <= 30
    names = groups.name_groups(facts, sets)
    blank = [""] * len(names)
    for seed in range(20):
        options = splits.SplitOptions(0.15, 0.15, seed)
        decided = splits.split_images(names, classes, blank, blank, options)
        assert len(set(zip(names, decided, strict=True))) == len(set(names))
        for pair in pairs:
            assert decided[pair.first] == decided[pair.second]
        assert 34 <= decided.count("test") <= 42


@pytest.mark.parametrize(
    ("size", "scale", "shift"), [(23, 1, 0), (90, 0.86, 0), (131, 0.92, 0.035)]
)
def test_thumbnail_of_a_part_has_the_means_of_its_stretches(size, scale, shift):
    matrix = views._average_matrix(size, scale, shift)
    pixels = np.random.default_rng(0).uniform(0, 255, size)
    # Many points of each stretch; a point shows the pixel that it lies in.
    points = (np.arange(views.SIDE * 2000) + 0.5) / (views.SIDE * 2000)
    points = (0.5 + shift + scale * (points - 0.5)) * size
    means = pixels[points.astype(int)].reshape(views.SIDE, -1).mean(axis=1)
    np.testing.assert_allclose(matrix @ pixels, means, atol=0.2)
