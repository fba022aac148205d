import signal

import numpy as np

from tests.conftest import IMAGE_SIZE, make_strategy
from trainer import config, run
from trainer.data import input_pipeline
from trainer.model import classifier
from trainer.training import features


def test_epoch_order_is_a_permutation_per_epoch_and_repeats():
    order = features.epoch_order(9, 5, seed=2)
    np.testing.assert_array_equal(np.sort(order), np.tile(np.arange(9), (5, 1)))
    assert len({tuple(row) for row in order}) == 5
    np.testing.assert_array_equal(order, features.epoch_order(9, 5, seed=2))
    assert not np.array_equal(order, features.epoch_order(9, 5, seed=3))


def test_batches_take_view_e_mod_v_in_epoch_e():
    num_views, num_images, batch = 2, 6, 4
    # The feature of an image in a view says which they are.
    values = np.stack(
        [100 * v + np.arange(num_images) for v in range(num_views)]
    ).astype(np.float32)[..., np.newaxis]
    labels = np.arange(num_images, dtype=np.int32)
    dataset = features.make_feature_dataset(
        values,
        labels,
        total_steps=6,
        global_batch_size=batch,
        per_replica_batch_size=batch,
        seed=0,
    )
    batches = list(dataset.as_numpy_iterator())
    rows = np.concatenate([b["inputs"][:, 0] for b in batches]).astype(int)
    order = features.epoch_order(num_images, 4, seed=0)
    for epoch in range(4):
        epoch_rows = rows[epoch * num_images : (epoch + 1) * num_images]
        np.testing.assert_array_equal(
            epoch_rows, 100 * (epoch % num_views) + order[epoch]
        )
    seen_labels = np.concatenate([b["labels"] for b in batches])
    np.testing.assert_array_equal(seen_labels, rows % 100)
    np.testing.assert_array_equal(batches[0]["places"], np.arange(batch))


def test_workers_and_restarts_continue_the_same_stream():
    values = np.random.default_rng(0).normal(size=(2, 7, 3)).astype(np.float32)
    labels = np.arange(7, dtype=np.int32)

    def batches(per_replica, **arguments):
        dataset = features.make_feature_dataset(
            values,
            labels,
            total_steps=5,
            global_batch_size=4,
            per_replica_batch_size=per_replica,
            seed=0,
            **arguments,
        )
        return [b["inputs"] for b in dataset.as_numpy_iterator()]

    whole = batches(4)
    np.testing.assert_array_equal(batches(4, start_step=3), whole[3:])
    workers = [batches(1, num_workers=2, worker_index=w) for w in (0, 1)]
    for step, batch in enumerate(whole):
        mine = [w[2 * step + r] for w in workers for r in (0, 1)]
        np.testing.assert_array_equal(np.concatenate(mine), batch)


def test_cached_features_equal_the_backbone_on_the_same_view(
    tiny_records, tmp_path
):
    info = input_pipeline.read_dataset_info(str(tiny_records))
    cfg = config.TrainConfig(
        data_dir=str(tiny_records),
        job_dir=str(tmp_path / "run"),
        features_dir=str(tmp_path / "features"),
        weights="none",
        image_size=IMAGE_SIZE,
        global_batch_size=8,
        seed=5,
    )
    strategy = make_strategy("one_device")
    before = signal.getsignal(signal.SIGTERM)
    with strategy.scope():
        job = run.Job(cfg, info, strategy)
        signal.signal(signal.SIGTERM, before)
        views = job.features("train", 4, job.augmentation)
    assert views.shape == (4, 22, 1280)
    backbone = classifier.features_model(job.model)
    images = input_pipeline.make_evaluation_dataset(
        input_pipeline.split_files(str(tiny_records), info, "train"),
        shard_sizes=info.shard_sizes("train"),
        image_size=IMAGE_SIZE,
        channels=1,
        global_batch_size=1,
        per_replica_batch_size=1,
        augmentation=job.augmentation,
        seed=5,
        view=3,
    )
    for i, image in enumerate(images.as_numpy_iterator()):
        if i in (0, 7, 21):
            expected = backbone(image["inputs"], training=False)
            np.testing.assert_allclose(
                views[3, i : i + 1], expected, rtol=1e-5, atol=1e-6
            )
