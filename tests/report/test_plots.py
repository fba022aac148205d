"""Figures decode, show something, and survive splits with little in them."""

import dataclasses
import io
import warnings

import numpy as np
import pytest
from fontTools import ttLib
from matplotlib import font_manager
from PIL import Image

from tests.report.samples import HISTORY, make_splits
from trainer.report import plots


def assert_drawn(png: bytes):
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    assert min(image.size) > 200
    pixels = np.asarray(image.convert("L"))
    assert pixels.min() < 100 and pixels.max() == 255
    assert 0.001 < np.mean(pixels < 250) < 0.9


def draw_all(splits, **changes):
    splits = {s: dataclasses.replace(p, **changes) for s, p in splits.items()}
    shown = splits["test"]
    k = len(shown.class_names)
    counts = np.zeros((k, k), int)
    np.add.at(counts, (shown.labels, shown.decisions), 1)
    return [
        plots.confusion_matrix(counts.tolist(), shown.class_names, "test"),
        plots.roc_curve(splits),
        plots.precision_recall_curve(splits),
        plots.calibration(splits),
    ]


@pytest.mark.parametrize(
    ("num_images", "num_classes"),
    [
        (0, 2),
        (0, 3),
        (1, 2),
        (3, 2),
        (60, 2),
        (60, 3),
        (60, 4),
        (60, 24),
        (70, 35),
    ],
)
def test_splits_are_drawn(num_images, num_classes):
    splits = make_splits(num_images, num_classes)
    names = tuple(f"class number {c}" for c in range(num_classes))
    for png in draw_all(splits, class_names=names, temperature=1.5):
        assert_drawn(png)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_drawn_and_dollar_signs_are_no_formulas(label):
    names = ("$\\frac{", "a name that is much too long for an axis")
    labels = np.full(20, label, np.int32)
    for png in draw_all(make_splits(20), labels=labels, class_names=names):
        assert_drawn(png)


def test_letters_that_matplotlib_lacks_come_from_an_installed_font(
    tmp_path, monkeypatch
):
    # A font that has these letters, and a file that is none.
    names = "\u80bf\u7624", "\u6b63\u5e38"
    own = ttLib.TTFont(font_manager.findfont("DejaVu Sans"))
    for table in own["cmap"].tables:
        table.cmap = {ord(letter): "A" for letter in "".join(names)}
    for record in own["name"].names:
        record.string = "Lightbox Test"
    fonts = [str(tmp_path / name) for name in ("a.ttf", "b.ttf")]
    (tmp_path / "a.ttf").write_bytes(b"no font")
    own.save(fonts[1])
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: fonts)
    with warnings.catch_warnings(), plots.fonts_for(names):
        warnings.simplefilter("error")  # Matplotlib's of letters it lacks
        for png in draw_all(make_splits(30), class_names=names):
            assert_drawn(png)


def test_legend_of_many_classes_stays_in_the_figure(monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "png", lambda fig: drawn.append(fig) or b"")
    names = tuple(f"class number {c}" for c in range(100))
    test = make_splits(100, 100)["test"]
    splits = {"test": dataclasses.replace(test, class_names=names)}
    plots.roc_curve(splits)
    plots.precision_recall_curve(splits)
    for fig in drawn:
        fig.draw_without_rendering()
        legend = fig.axes[0].get_legend()
        assert legend.get_title().get_text() == "the 24 lowest of 100"
        low, high = fig.bbox.padded(1).corners()[[0, 3]]
        inside = legend.get_window_extent()
        assert (inside.min >= low).all() and (inside.max <= high).all()
        shown = [float(t.get_text().split()[-1]) for t in legend.get_texts()]
        assert shown == sorted(shown)


def test_same_input_gives_the_same_bytes():
    assert draw_all(make_splits(30)) == draw_all(make_splits(30))


@pytest.mark.parametrize("num_rows", [0, 1, 7])
def test_history_of_any_length_is_drawn(num_rows):
    assert_drawn(plots.training_history(HISTORY[:num_rows]))


def test_classes_in_order_are_drawn_in_it_the_redder_the_further_off(
    monkeypatch,
):
    drawn, draw = [], plots.seaborn.heatmap

    def note(values, **options):
        drawn.append((values, options))
        return draw(values, **options)

    monkeypatch.setattr(plots.seaborn, "heatmap", note)
    confusion = [[6, 1, 3], [2, 8, 0], [5, 0, 5]]
    names = ("mild", "none", "severe")
    assert_drawn(plots.confusion_matrix(confusion, names, "test", (1, 0, 2)))
    (right, of_right), (wrong, of_wrong) = drawn
    assert of_right["xticklabels"] == ["none", "mild", "severe"]
    assert np.diag(right).tolist() == [0.8, 0.6, 0.5]
    assert (of_right["mask"] ^ of_wrong["mask"]).all()
    # A mistake by two steps counts twice as much as one by one.
    assert wrong[1].tolist() == [0.05, 0.0, 0.15]
    assert wrong[2].tolist() == [0.0, 0.25, 0.0]
    assert of_right["annot"][1, 2] == "3\n30%\n1 off"
    assert of_right["annot"][0, 2] == "0\n0%\n2 off"
