import pathlib
import resource

import keras
import numpy as np
import pytest

from trainer.training import checkpoints


def make(directory):
    inputs = keras.Input([3])
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    optimizer = keras.optimizers.AdamW(0.1)
    optimizer.build(model.trainable_variables)
    return model, checkpoints.PhaseCheckpoint(str(directory), model, optimizer)


def save_steps(directory, steps):
    model, checkpoint = make(directory)
    for step in steps:
        model.set_weights([np.full((3, 1), step), np.full(1, step)])
        checkpoint.progress.step = step
        checkpoint.progress.history.append({"step": step, "val_auc": None})
        checkpoint.progress.best_weights = model.get_weights()
        checkpoint.progress.lowest_losses = [0.5, 1.0 / step]
        checkpoint.save()


def test_restore_brings_back_weights_and_progress(tmp_path):
    save_steps(tmp_path, [1, 2, 3, 4, 5])
    model, checkpoint = make(tmp_path)
    assert checkpoint.restore()
    progress = checkpoint.progress
    assert progress.step == 5
    assert progress.lowest_losses == [0.5, 0.2]
    assert progress.history[-1] == {"step": 5, "val_auc": None}
    np.testing.assert_array_equal(model.get_weights()[0], np.full((3, 1), 5))
    np.testing.assert_array_equal(progress.best_weights[0], np.full((3, 1), 5))


def test_progress_of_a_finished_phase_is_a_file(tmp_path):
    path = tmp_path / "head.npz"
    assert checkpoints.read_progress(str(path)) is None
    weights = [np.full((3, 1), 0.1, np.float32), np.zeros(1, np.float32)]
    progress = checkpoints.Progress(
        step=7, finished=True, history=[{"step": 7}], best_weights=weights
    )
    path.write_bytes(progress.to_bytes())
    found = checkpoints.read_progress(str(path))
    assert (found.step, found.history) == (7, [{"step": 7}])
    for array, expected in zip(found.best_weights, weights, strict=True):
        np.testing.assert_array_equal(array, expected)
    whole = path.read_bytes()
    for damaged in (whole[:-9], whole.replace(b"\xcd\xcc", b"\xcd\xcd"), b""):
        path.write_bytes(damaged)
        assert checkpoints.read_progress(str(path)) is None


def test_the_last_three_are_kept(tmp_path):
    save_steps(tmp_path, [1, 2, 3, 4, 5])
    kept = sorted(p.name for p in tmp_path.glob("ckpt-*.index"))
    assert kept == ["ckpt-3.index", "ckpt-4.index", "ckpt-5.index"]


def test_empty_directory_restores_nothing(tmp_path):
    _, checkpoint = make(tmp_path)
    assert not checkpoint.restore()
    assert checkpoint.progress.step == 0


def damage(path: pathlib.Path, how: str):
    data = path.read_bytes()
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "flipped":
        middle = len(data) // 2
        changed = bytes([data[middle] ^ 0xFF])
        path.write_bytes(data[:middle] + changed + data[middle + 1 :])
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["truncated", "flipped", "missing"])
@pytest.mark.parametrize("suffix", ["data-00000-of-00001", "index"])
def test_damaged_newest_checkpoint_falls_back_to_the_one_before(
    how, suffix, tmp_path
):
    save_steps(tmp_path, [1, 2, 3])
    damage(tmp_path / f"ckpt-3.{suffix}", how)
    model, checkpoint = make(tmp_path)
    assert checkpoint.restore()
    assert checkpoint.progress.step == 2
    np.testing.assert_array_equal(model.get_weights()[0], np.full((3, 1), 2))


def test_every_altered_bit_is_noticed_or_without_effect(tmp_path):
    save_steps(tmp_path, [2, 3])
    generator = np.random.default_rng(0)
    model, checkpoint = make(tmp_path)
    for suffix in ("index", "data-00000-of-00001"):
        path = tmp_path / f"ckpt-3.{suffix}"
        data = path.read_bytes()
        for _ in range(60):
            altered = bytearray(data)
            place = generator.integers(len(data))
            altered[place] ^= 1 << generator.integers(8)
            path.write_bytes(altered)
            checkpoint.progress.step = 0
            assert checkpoint.restore()
            step = checkpoint.progress.step
            assert step in (2, 3)
            for weights in (
                model.get_weights(),
                checkpoint.progress.best_weights,
            ):
                np.testing.assert_array_equal(weights[0], np.full((3, 1), step))
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["truncated", "missing"])
def test_lost_list_of_checkpoints_does_not_start_the_phase_anew(how, tmp_path):
    save_steps(tmp_path, [1, 2, 10])
    damage(tmp_path / "checkpoint", how)
    _, checkpoint = make(tmp_path)
    assert checkpoint.restore()
    assert checkpoint.progress.step == 10


def test_damaged_newest_checkpoint_is_told_in_one_sentence(tmp_path, caplog):
    save_steps(tmp_path, [1, 2])
    damage(tmp_path / "ckpt-2.data-00000-of-00001", "truncated")
    _, checkpoint = make(tmp_path)
    with caplog.at_level("WARNING"):
        checkpoint.restore()
    message = caplog.records[-1].getMessage()
    assert "ckpt-2 is damaged" in message
    assert "the one before it is used" in message
    assert "\n" not in message


def test_full_disk_keeps_the_checkpoints_before(tmp_path):
    save_steps(tmp_path, [1, 2])
    files = sorted(p.name for p in tmp_path.iterdir())
    _, checkpoint = make(tmp_path)
    checkpoint.restore()
    checkpoint.progress.step = 3
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit on the size of files stands for a full disk; Python ignores the
    # signal that comes with it.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"step 3 could not be .*free some"):
            checkpoint.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(p.name for p in tmp_path.iterdir()) == files
    _, checkpoint = make(tmp_path)
    assert checkpoint.restore()
    assert checkpoint.progress.step == 2
    checkpoint.progress.step = 3
    checkpoint.save()
    assert (tmp_path / "ckpt-3.index").exists()


def test_no_intact_checkpoint_says_what_to_do(tmp_path):
    save_steps(tmp_path, [1, 2])
    for path in tmp_path.glob("ckpt-*.index"):
        damage(path, "truncated")
    _, checkpoint = make(tmp_path)
    with pytest.raises(ValueError, match=r"No checkpoint in .* is intact"):
        checkpoint.restore()
