r"""How many wrong labels are among the most doubtful ones.

    python -m tests.benchmarks.label_noise --manifest=CSV --weights=FILE \
      --cleanlab_python=ENV/bin/python

Of a sample of the patients, `--share` of the labels are replaced by another
class. The models of five folds, heads on the features of the frozen network,
then judge the images that each has not seen, by the command a user runs. Shown
is which share of as many most doubtful images is of those labels, and which
share of those that the report lists; beside it what cleanlab makes of the same
probabilities, whose environment may be another one:
`python -m venv ENV && ENV/bin/pip install cleanlab`.
"""

import csv
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from absl import app, flags

from trainer.data.build import output
from trainer.evaluation import intervals, label_doubts, predictions
from trainer.storage import csv_text

FLAGS = flags.FLAGS

CLEANLAB = """
import sys, numpy
from cleanlab import filter, rank
data = numpy.load(sys.argv[1])
arguments = data["labels"], data["probabilities"]
numpy.savez(
    sys.argv[1],
    scores=rank.get_normalized_margin_for_each_label(*arguments),
    listed=filter.find_label_issues(*arguments),
)
"""


def sample(generator) -> list[dict[str, str]]:
    """Rows of the manifest of some patients, with absolute paths."""
    with open(FLAGS.manifest, newline="") as file:
        rows = list(csv.DictReader(file))
    patients = np.unique([row["patient_id"] for row in rows])
    folder = os.path.dirname(os.path.abspath(FLAGS.manifest))
    taken = []
    for patient in generator.permutation(patients):
        if len(taken) >= FLAGS.num_images:
            break
        taken += [
            {
                **row,
                "path": os.path.join(folder, row["path"]),
                "flipped": "no",
            }
            for row in rows
            if row["patient_id"] == patient
        ]
    return taken


def judge(directory: str, rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """What the models of the folds say of each image."""
    columns = ("path", "label", "patient_id", "flipped")
    table = [columns, *([row[name] for name in columns] for row in rows)]
    manifest = pathlib.Path(directory, "manifest.csv")
    manifest.write_text(csv_text.write(table))
    for module, *arguments in (
        (
            "trainer.data.build_records",
            f"--manifest={manifest}",
            "--columns=flipped",
            f"--output_dir={directory}/records",
            "--test_fraction=0",
        ),
        (
            "trainer.task",
            f"--data_dir={directory}/records",
            f"--job_dir={directory}/run",
            f"--weights={FLAGS.weights}",
            f"--image_size={FLAGS.image_size}",
            f"--feature_views={FLAGS.feature_views}",
            "--num_folds=5",
            "--fine_tune_epochs=0",
            "--nodetector",
        ),
    ):
        subprocess.run(
            [sys.executable, "-m", module, *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    file = pathlib.Path(directory, "run", "evaluation", "cross_validation.csv")
    return csv_text.read(file.read_text())


def show(what: str, is_found: np.ndarray, num_wrong: int) -> None:
    right = is_found.mean()
    low, high = intervals.wilson_interval(right, len(is_found))
    print(
        f"{what}: {is_found.sum()} of {len(is_found)} were flipped, precision "
        f"{right:.3f} (95 % interval {low:.3f} to {high:.3f}), "
        f"{is_found.sum() / num_wrong:.3f} of the flipped",
        flush=True,
    )


def main(argv):
    del argv
    generator = np.random.default_rng(FLAGS.seed)
    rows = sample(generator)
    names = sorted({row["label"] for row in rows})
    flipped = generator.choice(
        len(rows), round(FLAGS.share * len(rows)), replace=False
    )
    for i in flipped:
        others = [name for name in names if name != rows[i]["label"]]
        rows[i]["label"] = str(generator.choice(others))
        rows[i]["flipped"] = "yes"
    print(f"{len(rows)} images, {len(flipped)} labels flipped", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        judged = judge(directory, rows)
        labels = np.array([names.index(row["label"]) for row in judged])
        probabilities = np.array(
            [[float(row[f"probability_{n}"]) for n in names] for row in judged]
        )
        # Ids do not name patients, as paths do.
        is_flipped = output.read_columns(f"{directory}/records")["flipped"]
        is_wrong = np.array([is_flipped[row["id"]] == "yes" for row in judged])
        num_wrong = int(is_wrong.sum())
        found = label_doubts.find(
            predictions.Predictions(
                ids=[row["id"] for row in judged],
                groups=[row["group"] for row in judged],
                labels=labels,
                logits=np.log(np.maximum(probabilities, 1e-30)),
            ).decide(tuple(names), None)
        )
        margins = label_doubts.margins(labels, found.probabilities)
        first = np.argsort(margins, kind="stable")[:num_wrong]
        right = np.mean(probabilities.argmax(axis=1) == labels)
        print(f"{len(judged)} judged, accuracy {right:.3f} of given labels")
        show("Lightbox, the first", is_wrong[first], num_wrong)
        show("Lightbox, listed", is_wrong[found.ranked], num_wrong)
        if FLAGS.cleanlab_python:
            arrays = os.path.join(directory, "arrays.npz")
            np.savez(arrays, labels=labels, probabilities=probabilities)
            subprocess.run(
                [FLAGS.cleanlab_python, "-c", CLEANLAB, arrays], check=True
            )
            theirs = np.load(arrays)
            first = np.argsort(theirs["scores"], kind="stable")[:num_wrong]
            show("cleanlab, the first", is_wrong[first], num_wrong)
            show("cleanlab, listed", is_wrong[theirs["listed"]], num_wrong)


if __name__ == "__main__":
    flags.DEFINE_string("manifest", None, "With patient_id.", required=True)
    flags.DEFINE_string("weights", None, "As of trainer.task.", required=True)
    flags.DEFINE_integer("num_images", 1000, "About as many are sampled.")
    flags.DEFINE_integer("image_size", 224, "In pixels.")
    flags.DEFINE_integer("feature_views", 1, "As of trainer.task.")
    flags.DEFINE_float("share", 0.05, "Of the labels is flipped.")
    flags.DEFINE_integer("seed", 0, "Of sample and flips.")
    flags.DEFINE_string("cleanlab_python", "", "Python that has cleanlab.")
    app.run(main)
