"""Labels that the models of the folds contradict, for those who can judge."""

import collections

from trainer.evaluation import label_doubts, results
from trainer.evaluation.predictions import Decided
from trainer.report import gallery, sentences
from trainer.report.data_audit import ReadPictures
from trainer.storage import csv_text

# `build_records --corrections` reads id, given_label and label.
COLUMNS = (
    *("rank", "id", "given_label", "label"),
    *("probability_given_label", "probability_label", "group"),
)


def describe(
    predictions: Decided, doubts: label_doubts.Doubts
) -> results.DoubtfulLabels:
    """How many there are, and which are the most frequent."""
    share, count = doubts.share, len(doubts.ranked)
    if share.value is None:
        spoken = [f"Doubtful labels are not known: {share.reason}."]
        return results.DoubtfulLabels(share, spoken)
    spoken = [
        "The models of the folds contradict the labels of "
        f"{count} of {share.n} images that they had not seen: a share of "
        f"{share.value:.3f} ({sentences.interval_text(share)})."
    ]
    pairs = collections.Counter(
        zip(predictions.labels[doubts.ranked], doubts.suggested, strict=True)
    )
    for (given, suggested), number in pairs.most_common(1):
        spoken.append(
            "Most often they take an image that is labelled "
            f"{predictions.class_names[given]} for "
            f"{predictions.class_names[suggested]} ({number} of {count}). "
            "Either the label is wrong or the models are."
        )
    return results.DoubtfulLabels(share, spoken)


def make_csv(predictions: Decided, doubts: label_doubts.Doubts) -> str:
    """A row of `COLUMNS` per doubtful label, the most doubtful first.

    `label` is the class that is suggested.
    """
    names, rows = predictions.class_names, [list(COLUMNS)]
    probabilities = doubts.probabilities
    for i, suggested in zip(doubts.ranked, doubts.suggested, strict=True):
        given = predictions.labels[i]
        rows.append(
            [
                str(len(rows)),
                predictions.ids[i],
                names[given],
                names[suggested],
                f"{probabilities[i, given]:.9g}",
                f"{probabilities[i, suggested]:.9g}",
                predictions.groups[i],
            ]
        )
    return csv_text.write(rows)


def make_gallery(
    predictions: Decided,
    doubts: label_doubts.Doubts,
    read_by_id: ReadPictures | None,
) -> gallery.Gallery:
    """The most doubtful; "decided" is what is suggested."""
    shown = doubts.ranked[: gallery.MAX_WRONG].tolist()
    ids, names = [predictions.ids[i] for i in shown], predictions.class_names
    encoded = read_by_id(ids) if read_by_id and ids else {}
    items = tuple(
        gallery.Item(
            image_id=predictions.ids[i],
            true=names[predictions.labels[i]],
            decided=names[suggested],
            probability=float(doubts.probabilities[i, suggested]),
            picture=gallery.thumbnail(encoded[predictions.ids[i]])
            if encoded
            else None,
        )
        for i, suggested in zip(shown, doubts.suggested, strict=False)
    )
    return gallery.Gallery(
        "The most doubtful first", True, len(doubts.ranked), items
    )
