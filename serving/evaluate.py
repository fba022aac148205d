r"""Evaluates an exported or a running model on a record set.

    python -m serving.evaluate --export=run/export/1 \
        --data_dir=records_of_another_hospital --output_dir=external
    python -m serving.evaluate --export=saved_model_of_others \
        --class_names=no_tumor,tumor --pixel_range=0,1 \
        --data_dir=records --output_dir=external
"""

import contextlib
import os
import sys

from absl import app, flags, logging

from trainer import startup
from trainer.export import versions
from trainer.storage import paths, staging

_NO_MODEL = (
    "Give --export or --target: the model to evaluate, as an exported version "
    "or on a running server."
)


def _define_flags() -> None:
    flags.DEFINE_string(
        "export", "", "Exported version, or folder of versions: the newest."
    )
    flags.DEFINE_list(
        "class_names",
        [],
        "Of a SavedModel that Lightbox did not export: its classes, in the "
        "order of its outputs. Of two the last is the positive one.",
    )
    flags.DEFINE_enum(
        "model_outputs",
        "probabilities",
        ["probabilities", "logits"],
        "What such a SavedModel gives.",
    )
    flags.DEFINE_list(
        "pixel_range",
        ["0", "255"],
        "Values of black and white in the input of such a SavedModel, for "
        "example 0,1.",
    )
    flags.DEFINE_float(
        "operating_point",
        0.5,
        "Threshold on the probability of the positive class of such a "
        "SavedModel.",
        lower_bound=0.0,
        upper_bound=1.0,
    )
    flags.DEFINE_string(
        "target",
        "",
        "Running server instead: grpc://HOST:PORT or http://HOST:PORT.",
    )
    flags.DEFINE_string(
        "model_name", "classifier", "What the server calls the model."
    )
    flags.DEFINE_string(
        "compare",
        "",
        "Another export, or the target of a server with --model_name, that is "
        "asked about the same images.",
    )
    flags.DEFINE_string(
        "data_dir", None, "Records that build_records wrote.", required=True
    )
    flags.DEFINE_string(
        "output_dir", None, "Where report and figures go.", required=True
    )
    flags.DEFINE_list(
        "splits",
        [],
        "Splits to judge by, for example test,validation. Default: test, if "
        "the model was trained on these records, else all.",
    )
    flags.DEFINE_list(
        "subgroups",
        [],
        "Columns that build_records kept, by whose values the model is judged "
        "too. Default: all of them.",
    )
    flags.DEFINE_list(
        "prevalences",
        ["0.01", "0.05", "0.2"],
        "Shares of positives at which predictive values are reported.",
    )
    flags.DEFINE_integer(
        "batch_size", 32, "Images in a call of a model.", lower_bound=1
    )
    flags.DEFINE_integer("seed", 0, "Of the bootstrap.")


def _load(stack: contextlib.ExitStack, place: staging.Workspace, where: str):
    """The model at a path or at a server's address."""
    if paths.is_remote(where) and not paths.is_bucket(where):
        from serving import client
        from serving.external import asking

        name = flags.FLAGS.model_name
        server = stack.enter_context(client.Client(where, name))
        return asking.AskedModel(
            f"{name} at {where}",
            lambda images: asking.make_answers(server.predict(images)),
        )
    from serving.external import exported, foreign

    values = flags.FLAGS
    try:
        low, high = map(float, values.pixel_range)
    except ValueError as error:
        raise ValueError(
            "--pixel_range must be two numbers, for example 0,1. Received: "
            f"pixel_range={','.join(values.pixel_range)}."
        ) from error
    meaning = foreign.Meaning(
        tuple(values.class_names),
        values.model_outputs,
        (low, high),
        values.operating_point,
    )
    version_dir = place.stage(versions.find_newest(where), "export")
    return exported.load(version_dir, meaning)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    startup.set_up_logging(os.path.dirname(os.path.dirname(__file__)))
    with staging.Workspace() as place:
        _run(place)


def _run(place: staging.Workspace) -> None:
    values = flags.FLAGS
    try:
        if bool(values.export) == bool(values.target):
            raise ValueError(_NO_MODEL)
        startup.import_keras()
        from serving.external import judge
        from trainer.evaluation import metrics
        from trainer.report import page

        prevalences = metrics.parse_prevalences(values.prevalences)
        output_dir = place.output(values.output_dir)
        with contextlib.ExitStack() as stack:
            models = [_load(stack, place, values.export or values.target)]
            if values.compare:
                models.append(_load(stack, place, values.compare))
            evaluation = judge.evaluate(
                models,
                place.stage_records(values.data_dir),
                splits=values.splits,
                subgroups=values.subgroups,
                prevalences=prevalences,
                batch_size=values.batch_size,
                seed=values.seed,
            )
        for name, content in evaluation.files.items():
            paths.write_atomically(paths.join(output_dir, name), content)
    except (ValueError, OSError) as error:
        sys.exit(f"evaluate: {error}")
    findings = evaluation.findings
    sentences = findings.caveats + findings.verdict
    if findings.comparison is not None:
        sentences += findings.comparison.verdict
    for sentence in sentences:
        print(f"- {sentence}")
    for name in ("roc_auc", "accuracy"):
        metric = findings.split.metrics[name]
        logging.info("%s %s", name, page.format_metric(metric))
    print(f"Written to {paths.join(values.output_dir, 'report.html')}")


if __name__ == "__main__":
    _define_flags()
    startup.run(main, {"export": "Model", "data_dir": "Images and results"})
