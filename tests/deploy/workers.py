"""Runs the processes of a cluster on this machine, in its own environment."""

import os

from tests import processes, test_train

# For a run of one short epoch.
SHORT = (
    "--head_epochs=1",
    "--image_size=32",
    "--global_batch_size=8",
    "--fine_tune_epochs=0",
    "--feature_views=1",
)


def bring_here(texts, addresses):
    """Puts free addresses of this machine in the place of a cluster's."""
    here = test_train.free_addresses(len(addresses))
    replaced = []
    for text in texts:
        for old, new in zip(addresses, here, strict=True):
            assert old in text
            text = text.replace(old, new)
        replaced.append(text)
    return replaced


def train(environments, flags, whole=True):
    """Runs `trainer.task` once in each environment, all at a time.

    Args:
        environments: variables that a platform sets, by process.
        flags: of all of them.
        whole: whether to evaluate and export, too.

    Returns:
        Exit codes and standard errors.
    """
    module = "trainer.task" if whole else "tests.train_only"
    own = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
    return test_train.wait(
        [
            processes.Command(module, *flags, env=own | environment)
            for environment in environments
        ]
    )
