"""Folds hold the same records, shared out anew, and test each group once."""

import tensorflow as tf

from tests.data.builders import read_files
from tests.samples import write_records
from trainer.data import fold_records, input_pipeline, records

NUM_FOLDS = 3


def raw_records(directory, info, splits):
    files = [
        name
        for split in splits
        for name in input_pipeline.split_files(str(directory), info, split)
    ]
    return sorted(tf.data.TFRecordDataset(files).as_numpy_iterator())


def test_folds_test_every_image_but_those_of_test_once(tmp_path):
    info = write_records(tmp_path, {"train": 22, "validation": 9, "test": 7})
    index = input_pipeline.read_index(str(tmp_path), info)
    pool = raw_records(tmp_path, info, ("train", "validation"))
    tested = []
    for fold in range(NUM_FOLDS):
        fold_dir = tmp_path / f"fold_{fold}"
        split_of = fold_records.assign(index, info, NUM_FOLDS, fold, seed=0)
        fold_records.write_fold(
            str(tmp_path), info, split_of, str(fold_dir), seed=0
        )
        of_fold = input_pipeline.read_dataset_info(str(fold_dir))
        assert raw_records(fold_dir, of_fold, records.SPLITS) == pool
        # Verifies counts and fingerprint.
        of_records = input_pipeline.read_index(str(fold_dir), of_fold)
        tested += of_records["test"].ids
        in_train = set(of_records["train"].groups)
        assert not in_train & set(of_records["test"].groups)
        assert not in_train & set(of_records["validation"].groups)
        for split in records.SPLITS:
            assert all(of_fold.counts[split].values())
    assert sorted(tested) == sorted(
        index["train"].ids + index["validation"].ids
    )


def test_interrupted_fold_is_written_again_and_a_whole_one_kept(tmp_path):
    info = write_records(tmp_path, {"train": 22, "validation": 9})
    index = input_pipeline.read_index(str(tmp_path), info)
    split_of = fold_records.assign(index, info, NUM_FOLDS, 0, seed=0)
    fold_dir = tmp_path / "fold"
    arguments = (str(tmp_path), info, split_of, str(fold_dir), 0)
    fold_records.write_fold(*arguments)
    whole = read_files(fold_dir)
    (fold_dir / records.DATASET_FILE).unlink()
    (fold_dir / records.shard_name("train", 0, 4)).write_bytes(b"torn")
    fold_records.write_fold(*arguments)
    assert read_files(fold_dir) == whole
