r"""Sweeps the head's hyperparameters on features that are computed once.

    python -m tuning.task --data_dir=records --job_dir=sweep --max_trials=50
    python -m trainer.task --data_dir=records --job_dir=run \
        --hparams=sweep/best_hyperparameters.json

The second command trains with what the first has found. A sweep that was
stopped goes on with the trials that are left when it is started again.
"""

import os
import sys

from absl import app, flags

from trainer import config_flags, startup
from trainer.storage import staging
from tuning import search_space

FLAGS = flags.FLAGS

# The space decides on these, and nothing else of a run is done in a sweep.
_NOT_FLAGS = (
    "export_dir",
    "export_formats",
    "fine_tune_blocks",
    "head_learning_rate",
    "optimizer",
    "schedule",
    "weight_decay",
    "label_smoothing",
    "focal_gamma",
    "class_weights",
    "hidden_units",
    "head_activation",
    "head_batch_norm",
    "dropout",
    "operating_point",
    "study_rule",
    "ordinal",
    "coverage",
    "detector",
    "steps_per_execution",
    "accumulation_steps",
    "profile_steps",
    "num_folds",
    "ensemble",
    "subgroups",
    "prevalences",
)
config_flags.define(left_out=_NOT_FLAGS)
flags.adopt_module_key_flags(config_flags)
flags.DEFINE_enum(
    "oracle",
    "random",
    ["random", "bayesian", "hyperband", "grid"],
    "What says which hyperparameters to try next.",
)
flags.DEFINE_integer(
    "max_trials",
    50,
    "Trials at most; their number follows from --head_epochs for hyperband.",
    lower_bound=1,
)
flags.DEFINE_string(
    "objective", "roc_auc", "A metric of metrics.json, judged on validation."
)
flags.DEFINE_integer(
    "executions_per_trial",
    1,
    "Heads of other seeds that a trial trains; their mean counts.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "num_folds",
    0,
    "Judge on training and validation images in turn, in so many folds that no "
    "group spans; 0: on the validation split.",
    lower_bound=0,
)
flags.DEFINE_bool(
    "second_stage",
    False,
    "After the heads, train the best one's whole run, once for each depth of "
    "fine-tuning in the space, and choose the depth.",
)
flags.DEFINE_string(
    "search_space",
    "",
    "JSON file that narrows the space of tuning/search_space.py, for example "
    '{"dropout": [0.2, 0.4], "optimizer": ["adamw"]}.',
)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    startup.set_up_logging(os.path.dirname(os.path.dirname(__file__)))
    with staging.Workspace() as place:
        try:
            _run(place)
        except (ValueError, OSError) as error:
            sys.exit(f"tuning.task: {error}")
        except KeyboardInterrupt:
            sys.exit(
                "tuning.task: stopped; the same command continues with the "
                "trials that are left."
            )


def _run(place: staging.Workspace) -> None:
    cfg = config_flags.make_config(config_flags.values())
    if not cfg.is_pretrained or not cfg.head_epochs:
        raise ValueError(
            "A sweep trains heads on a pretrained backbone: --weights must not "
            "be none, and --head_epochs must be positive."
        )
    if FLAGS.second_stage and not cfg.fine_tune_epochs:
        raise ValueError(
            "--second_stage searches how deep to fine-tune: "
            "--fine_tune_epochs must be positive."
        )
    space = search_space.read_space(FLAGS.search_space)
    depths = space.pop(search_space.DEPTH).values
    # TensorFlow takes seconds to import; a wrong flag is told before that.
    startup.import_keras()
    from tuning import tuner

    options = tuner.SweepOptions(
        FLAGS.oracle,
        FLAGS.max_trials,
        FLAGS.objective,
        FLAGS.executions_per_trial,
        FLAGS.num_folds,
        space,
        depths if FLAGS.second_stage else (),
    )
    tuner.run(config_flags.bring_here(cfg, place, True), options)


if __name__ == "__main__":
    startup.run(main, config_flags.headings() | {"oracle": "Sweep"})
