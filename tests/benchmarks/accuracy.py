r"""Test ROC AUC and accuracy: sets x recipes x seeds, by a user's commands.

    python -m tests.benchmarks.accuracy --weights=FILE --output_dir=results \
      --sets=brain=brain_mri_253,breast=breast_ultrasound/manifest.csv \
      --recipe=default: --recipe=head:--fine_tune_epochs=0

A set is a folder of class folders, which each seed splits anew, or a manifest
that gives the splits. A run that is finished is not made again. Intervals are
of the mean over seeds, by the bootstrap over groups; those of a difference from
the first recipe are paired.
"""

import csv
import json
import pathlib
import subprocess
import sys
import time

import numpy as np
from absl import app, flags

from trainer.evaluation import intervals, ranking, resampling

FLAGS = flags.FLAGS
# Of decisions by the threshold that validation chose; and, as published tables
# take it, of the more likely class.
ACCURACIES = {"accuracy": "decision", "accuracy_likely": "predicted"}
METRICS = ("roc_auc", *ACCURACIES)


def run(module: str, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", module, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def train(source: str, place: pathlib.Path, recipe: str, seed: int) -> dict:
    """Builds and trains where that is not done; what the run has left.

    Returns:
        `test`: rows of predictions.csv; `minutes`; `positive`: the class.
    """
    name, _, arguments = recipe.partition(":")
    records, job = place / "records", place / name
    if not (records / "dataset.json").exists():
        kind = "manifest" if source.endswith(".csv") else "input_dir"
        run(
            "trainer.data.build_records",
            f"--{kind}={source}",
            f"--output_dir={records}",
            f"--on_leak={FLAGS.on_leak}",
            f"--seed={seed}",
        )
    clock = place / f"{name}.minutes"
    if not clock.exists():
        started = time.monotonic()
        run(
            "trainer.task",
            f"--data_dir={records}",
            f"--job_dir={job}",
            f"--weights={FLAGS.weights}",
            f"--seed={seed}",
            *arguments.split(),
        )
        clock.write_text(f"{(time.monotonic() - started) / 60:.1f}")
    info = json.loads((job / "dataset.json").read_text())
    with open(job / "evaluation" / "predictions.csv", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["split"] == "test"]
    return {
        "test": rows,
        "minutes": float(clock.read_text()),
        "positive": info["positive_class"],
    }


def make_statistics(recipes: dict[str, list[dict]]):
    """Weights of all seeds' images -> each recipe's metrics, seeds' mean."""
    seeds = {}
    for name, runs in recipes.items():
        seeds[name] = [
            (
                np.array([r["label"] == run["positive"] for r in run["test"]]),
                np.array([float(r["score"]) for r in run["test"]]),
                {
                    name: np.array([r["label"] == r[key] for r in run["test"]])
                    for name, key in ACCURACIES.items()
                },
            )
            for run in runs
        ]

    def statistics(weights):
        found = {}
        for name, arrays in seeds.items():
            ends = np.cumsum([len(truth) for truth, _, _ in arrays])
            parts = np.split(weights, ends[:-1], axis=1)
            both = list(zip(arrays, parts, strict=True))
            found[name, "roc_auc"] = np.mean(
                [ranking.roc_auc(t, s, w) for (t, s, _), w in both], axis=0
            )
            for metric in ACCURACIES:
                found[name, metric] = np.mean(
                    [w @ a[-1][metric] / w.sum(axis=1) for a, w in both], axis=0
                )
        return found

    return statistics


def make_rows(set_name: str, recipes: dict[str, list[dict]]) -> list[dict]:
    """A row per recipe: means over seeds, and what they differ in."""
    first, *_ = recipes
    for runs in recipes.values():
        ids = [[row["id"] for row in run["test"]] for run in runs]
        assert ids == [[r["id"] for r in run["test"]] for run in recipes[first]]
    groups = [row["group"] for run in recipes[first] for row in run["test"]]
    statistics = make_statistics(recipes)
    values, drawn = resampling.resample(statistics, groups, 2000, seed=0)
    num_groups, rows = len(set(groups)), []
    for name, runs in recipes.items():
        row = {"set": set_name, "recipe": name}
        row["minutes"] = np.mean([run["minutes"] for run in runs])
        for metric in METRICS:
            key = name, metric
            low, high = intervals.score_interval(
                values[key], drawn[key], num_groups
            )
            row |= {metric: values[key], f"{metric}_low": low}
            row[f"{metric}_high"] = high
            if name != first:
                change = drawn[key] - drawn[first, metric]
                low, high = intervals.percentile_interval(change, num_groups)
                row[f"{metric}_change"] = values[key] - values[first, metric]
                row |= {f"{metric}_change_low": low}
                row[f"{metric}_change_high"] = high
        for seed, run in enumerate(runs):
            single = make_statistics({name: [run]})
            for (_, metric), value in single(
                np.ones((1, len(run["test"])))
            ).items():
                row[f"{metric}_seed_{seed}"] = value[0]
        rows.append(row)
    return rows


def markdown(rows: list[dict]) -> str:
    names = ("ROC AUC", "accuracy", "accuracy of the more likely class")
    lines = ["| set | recipe | " + " | ".join(names) + " | minutes |"]
    lines.append("|---" * (len(names) + 3) + "|")
    for row in rows:
        cells = [row["set"], row["recipe"]]
        for metric in METRICS:
            seeds = [
                v for k, v in row.items() if k.startswith(f"{metric}_seed")
            ]
            cell = (
                f"{row[metric]:.3f} ({row[metric + '_low']:.3f} to "
                f"{row[metric + '_high']:.3f}); "
                + ", ".join(f"{v:.3f}" for v in seeds)
            )
            if f"{metric}_change" in row:
                cell += (
                    f"; {row[metric + '_change']:+.3f} "
                    f"({row[metric + '_change_low']:+.3f} to "
                    f"{row[metric + '_change_high']:+.3f})"
                )
            cells.append(cell)
        lines.append(
            "| " + " | ".join([*cells, f"{row['minutes']:.0f}"]) + " |"
        )
    return "\n".join(lines) + "\n"


def main(argv):
    del argv
    output, rows = pathlib.Path(FLAGS.output_dir), []
    for given in FLAGS.sets:
        set_name, source = given.split("=")
        recipes = {
            recipe.partition(":")[0]: [
                train(source, output / f"{set_name}-{seed}", recipe, seed)
                for seed in range(FLAGS.num_seeds)
            ]
            for recipe in FLAGS.recipe
        }
        rows += make_rows(set_name, recipes)
        columns = dict.fromkeys(name for row in rows for name in row)
        with open(output / "accuracy.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        (output / "accuracy.md").write_text(markdown(rows))
    print(markdown(rows), end="")


if __name__ == "__main__":
    flags.DEFINE_list("sets", None, "NAME=SOURCE of each.", required=True)
    flags.DEFINE_multi_string("recipe", ["default:"], "NAME:flags of trainer.")
    flags.DEFINE_string("output_dir", None, "Kept runs, table.", required=True)
    flags.DEFINE_string("on_leak", "allow", "As of build_records.")
    flags.DEFINE_string("weights", None, "As of trainer.task.", required=True)
    flags.DEFINE_integer("num_seeds", 3, "Seeds from 0 on.")
    app.run(main)
