"""`trainer.task` on several logical CPUs, which stand for a machine's GPUs.

    python -m tests.train_only NUM_DEVICES FLAGS…

It ends when the model is trained: what comes then is the same on one device.
"""

import sys

import tensorflow as tf
from absl import app

from trainer import pipeline, task, train
from trainer.data import input_pipeline
from trainer.export import saved_model
from trainer.storage import paths


def train_only(cfg):
    info = input_pipeline.read_dataset_info(cfg.data_dir)
    trained = train.train_and_predict(cfg, info, train.set_up(cfg))
    if trained.run.is_chief:
        saved_model.save_keras(
            trained.run.copy_for_inference(),
            paths.join(cfg.job_dir, pipeline.MODEL_FILE),
        )


if __name__ == "__main__":
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * int(sys.argv.pop(1)),
    )
    pipeline.run = train_only
    app.run(task.main)
