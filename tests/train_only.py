"""`trainer.task` that ends when the model is trained."""

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
    pipeline.run = train_only
    app.run(task.main)
