r"""Says whether the answers of a model in use still look like its evaluation's.

    python -m serving.predict --log=answers.jsonl --target=... scans/
    python -m serving.drift --reference=run --log=answers.jsonl

May be asked as often as one likes: the test keeps its level. Draws a figure
beside the log.
"""

import sys

from absl import app, flags

from trainer import startup
from trainer.storage import paths


def _define_flags() -> None:
    flags.DEFINE_string(
        "reference",
        None,
        "The --job_dir of the run that made the model, or what "
        "serving.evaluate wrote (--output_dir).",
        required=True,
    )
    flags.DEFINE_string(
        "log", None, "What serving.predict --log wrote.", required=True
    )


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    from serving import answer_log
    from trainer.evaluation import drift
    from trainer.report import drift_report

    path = flags.FLAGS.log
    try:
        used = answer_log.read(path)
        reference = drift_report.read_reference(
            flags.FLAGS.reference, used.unit
        )
        drift_report.check_model(reference.answers, used)
        found = drift.compare(reference.answers, used, reference.positive_index)
        figure = drift_report.draw(found, reference, used)
        paths.write_atomically(f"{path}.png", figure)
    except (ValueError, OSError) as error:
        sys.exit(f"drift: {error}")
    for sentence in drift_report.describe(found, reference, len(used.scores)):
        print(f"- {sentence}")
    print(f"Drawn in {path}.png")


if __name__ == "__main__":
    _define_flags()
    startup.run(main, {"reference": "Answers"})
