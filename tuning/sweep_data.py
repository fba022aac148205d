"""Reads the records, computes the features and cuts the folds of a sweep."""

import numpy as np
import tensorflow as tf
from absl import logging
from sklearn import model_selection

from trainer import config, run
from trainer.data import input_pipeline
from trainer.evaluation import intervals
from trainer.progress import Progress
from tuning import search_space, trial


def load(
    cfg: config.TrainConfig,
    strategy: tf.distribute.Strategy,
    strengths: tuple[float, ...],
    num_folds: int,
) -> trial.SweepData:
    """Features in all views that trials may ask for, from the cache or new.

    Args:
        cfg: of the runs that the sweep is for.
        strategy: of this process.
        strengths: of augmentation.
        num_folds: of training and validation images; 0: judge on validation.

    Raises:
        ValueError: if the records cannot be used, or have fewer groups of a
            class than folds.
    """
    info = input_pipeline.read_dataset_info(cfg.data_dir)
    if "train" not in info.splits or "validation" not in info.splits:
        raise ValueError(
            f"{cfg.data_dir} has the splits {', '.join(info.splits)}; a sweep "
            "needs train and validation: build the records again."
        )
    with strategy.scope():
        sweep_run = run.Run(cfg, info, strategy)
    splits = ("train", "validation")
    index = [sweep_run.index[split] for split in splits]
    ids, groups, labels = (
        [value for split in index for value in getattr(split, name)]
        for name in ("ids", "groups", "labels")
    )
    num_train = len(index[0].labels)
    labels = np.array(labels, np.int32)
    if num_folds:
        folds = _cut_folds(labels, groups, num_folds, cfg.seed)
    else:
        places = np.arange(len(labels))
        folds = [(places[:num_train], places[num_train:])]
    trained_on = splits if num_folds else splits[:1]
    judged_on = splits if num_folds else splits[1:]

    def read(some_splits, view, augmentation):
        parts = [
            sweep_run.features(split, view, augmentation, bar)
            for split in some_splits
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    num_views = sweep_run.num_views * len(strengths)
    total = sum(map(info.num_images, judged_on))
    total += num_views * sum(map(info.num_images, trained_on))
    with strategy.scope(), Progress(total, "features") as bar:
        views = {}
        for strength in strengths:
            scaled = search_space.scale_augmentation(vars(cfg), strength)
            settings = vars(cfg) | scaled
            augmentation = run.make_augmentation(settings)
            count = settings["feature_views"] or sweep_run.num_views
            views[strength] = [
                read(trained_on, view, augmentation) for view in range(count)
            ]
        features = read(judged_on, 0, None)
    logging.info(
        "sweep     %d images to train on, %d to judge on, %d fold(s).",
        len(views[strengths[0]][0]),
        len(features),
        len(folds),
    )
    return trial.SweepData(
        views=views,
        features=features,
        first_judged=0 if num_folds else num_train,
        ids=ids,
        groups=groups,
        labels=labels,
        folds=folds,
        class_names=info.class_names,
        positive_index=info.positive_index,
    )


def _cut_folds(labels, groups, num_folds, seed):
    """Stratified folds that no group spans."""
    fewest = intervals.fewest_groups(groups, labels)
    if fewest < num_folds:
        raise ValueError(
            f"--num_folds={num_folds} needs as many groups of every class; one "
            f"class has {fewest}: lower --num_folds."
        )
    cutter = model_selection.StratifiedGroupKFold(
        num_folds, shuffle=True, random_state=seed
    )
    return list(cutter.split(labels, labels, groups))
