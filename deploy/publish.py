"""Puts an exported version where TF Serving finds it, or takes one back.

    python -m deploy.publish --export_dir=run/export \\
        --model_base_path=gs://bucket/brain_mri
    python -m deploy.publish --model_base_path=gs://bucket/brain_mri --rollback

A server never sees half a version: on a disk it appears by a rename, in a
bucket its `saved_model.pb` comes last. The same command may be run again, after
a kill or without need: it finishes what was begun, and publishes nothing twice.
"""

import os
import sys
import time

from absl import app, flags

from deploy import bucket_base, export_files, local_base, version_labels
from serving import client as client_lib
from trainer import startup
from trainer.export import blessing, signature
from trainer.storage import buckets, paths, staging

FLAGS = flags.FLAGS
_POLL_S = 0.5


def _define_flags() -> None:
    flags.DEFINE_string(
        "export_dir",
        "",
        "Export directory of a run, local or gs://, whose newest version is "
        "published, or one version in it.",
    )
    flags.DEFINE_string(
        "model_base_path",
        None,
        "Holds a directory per version, as TF Serving's flag of this name: a "
        "directory or gs://BUCKET/PATH.",
        required=True,
    )
    flags.DEFINE_bool(
        "rollback",
        False,
        "Take the newest version away, so that servers go back to the one "
        "before; with --label, move the label back instead.",
    )
    flags.DEFINE_integer(
        "keep",
        0,
        "Versions to keep, the newest ones and those that "
        "--model_config_file names; 0 keeps all.",
        lower_bound=0,
    )
    flags.DEFINE_bool("force", False, "Publish a version that is not blessed.")
    flags.DEFINE_enum(
        "label",
        None,
        list(version_labels.LABELS),
        "Label that the version gets in --model_config_file.",
    )
    flags.DEFINE_string(
        "model_config_file",
        "",
        "TF Serving's file of models and labels, local or gs://; made if it "
        "does not exist.",
    )
    flags.DEFINE_string(
        "model_name", signature.MODEL_NAME, "Name in the file and on servers."
    )
    flags.DEFINE_string(
        "target",
        "",
        "Server that reads the file, grpc://HOST:PORT or http://HOST:PORT: a "
        "label moves when it has loaded the version. Without it the command "
        "stops before that and is run again.",
    )
    flags.DEFINE_integer(
        "timeout_s", 120, "Seconds to wait for the server.", lower_bound=1
    )


def open_base(path: str):
    """A base path on a disk or in a bucket."""
    if paths.is_bucket(path):
        return bucket_base.BucketBase(path)
    if paths.is_remote(path):
        raise ValueError(
            "--model_base_path must be a directory or gs://BUCKET/PATH. "
            f"Received: model_base_path={path}."
        )
    return local_base.LocalBase(path)


def publish(export_dir: str, base, force: bool = False) -> int:
    """Publishes the newest version of an export directory, or one version.

    Args:
        export_dir: local.
        base: from `open_base`.
        force: although it is not blessed.

    Returns:
        The number that servers know it by.

    Raises:
        ValueError: if it must not or cannot be published.
    """
    version_dir = export_files.find_version_dir(export_dir)
    refusal = blessing.refusal(version_dir)
    if refusal and not force:
        raise ValueError(f"{refusal} Or publish it all the same with --force.")
    export = export_files.read_export(version_dir)
    with base.lock():
        base.tidy()
        number = base.find(export)
        if number is not None:
            print(
                f"{base.version_path(number)} holds "
                f"{paths.as_given(version_dir)}."
            )
            return number
        number = base.add(export)
    size = f"{len(export.names)} files, {export.num_bytes / 1e6:.1f} MB"
    print(
        f"Published {paths.as_given(version_dir)} as "
        f"{base.version_path(number)} ({size})."
    )
    return number


def roll_back(base) -> None:
    """Takes the newest version away from servers; nothing is deleted."""
    with base.lock():
        withdrawn = base.tidy() or [base.withdraw()]
        left = base.versions()
    print(
        f"{base.version_path(withdrawn[-1])} is withdrawn, servers go back to "
        f"{left[-1]}; its files are in {base.path}/withdrawn.{withdrawn[-1]}."
    )


def keep_newest(base, count: int, named: set[int]) -> None:
    """Removes all versions but the newest ones and those named."""
    with base.lock():
        base.tidy()
        kept = base.versions()[-count:]
        for number in base.begun_versions():
            # A newer one may be on its way.
            if number < min(kept) and number not in named:
                base.remove(number)
                print(f"Removed {base.version_path(number)}.")


def move_label(base, label: str, number: int) -> None:
    """Makes the steps towards a label that can be made now.

    Raises:
        ValueError: if the server does not load the version.
    """
    path, name = FLAGS.model_config_file, FLAGS.model_name
    earlier = [n for n in base.versions() if n < number]
    for _ in range(2):
        config = version_labels.read(path)
        if dict(_labels(config, name)).get(label) == number:
            print(f"{label} is {base.version_path(number)}.")
            return
        config, is_final = version_labels.next_step(
            config, name, base.path, label, number, max(earlier, default=None)
        )
        if is_final and FLAGS.target:
            _wait_until_loaded(number)
        version_labels.write(path, config)
        if is_final:
            print(f"{path}: {label} is {base.version_path(number)} now.")
            return
        print(f"{path}: servers are to load version {number}.")
        if not FLAGS.target:
            print(
                f"When version {number} is AVAILABLE, run the same command "
                f"again, and {label} moves to it."
            )
            return


def _labels(config, name: str):
    for model in config.model_config_list.config:
        if model.name == name:
            yield from model.version_labels.items()


def _wait_until_loaded(number: int) -> None:
    deadline = time.monotonic() + FLAGS.timeout_s
    said = "it does not answer"
    with client_lib.Client(FLAGS.target, FLAGS.model_name) as client:
        while time.monotonic() < deadline:
            try:
                states = {s.version: s for s in client.status()}
            except client_lib.ServerError as error:
                said = str(error)
            else:
                found = states.get(number)
                if found and found.state == "AVAILABLE":
                    return
                said = "it does not know it"
                if found:
                    said = f"it is {found.state} {found.error}".strip()
            time.sleep(_POLL_S)
    raise ValueError(
        f"{FLAGS.target} has not loaded version {number} within "
        f"{FLAGS.timeout_s} s ({said}): the label stays where it was. Does the "
        "server read the model config file again "
        "(--model_config_file_poll_wait_seconds)?"
    )


def _check_flags() -> None:
    if bool(FLAGS.export_dir) == FLAGS.rollback:
        raise ValueError("Give either --export_dir, to publish, or --rollback.")
    if FLAGS.label and not FLAGS.model_config_file:
        raise ValueError(
            "--label is written into TF Serving's --model_config_file: give it."
        )


def _run(place: staging.Workspace) -> None:
    _check_flags()
    base = open_base(FLAGS.model_base_path)
    if not FLAGS.rollback:
        export_dir = place.stage_version(FLAGS.export_dir, "export_dir")
        number = publish(export_dir, base, FLAGS.force)
        if FLAGS.label:
            move_label(base, FLAGS.label, number)
    elif FLAGS.label:
        config = version_labels.read(FLAGS.model_config_file)
        now = dict(_labels(config, FLAGS.model_name)).get(FLAGS.label)
        earlier = [n for n in base.versions() if now and n < now]
        if not earlier:
            raise ValueError(
                f"{FLAGS.label} is {now or 'no version'} in "
                f"{FLAGS.model_config_file}, and {base.path} has none before "
                "it: there is nothing to go back to."
            )
        move_label(base, FLAGS.label, earlier[-1])
    else:
        roll_back(base)
    if FLAGS.keep:
        named = set()
        if FLAGS.model_config_file:
            named = version_labels.served_versions(
                version_labels.read(FLAGS.model_config_file), FLAGS.model_name
            )
        keep_newest(base, FLAGS.keep, named)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    startup.set_up_logging(os.path.dirname(os.path.dirname(__file__)))
    with staging.Workspace() as place:
        _run_and_explain(place)


def _run_and_explain(place: staging.Workspace) -> None:
    try:
        _run(place)
    except (ValueError, OSError) as error:
        sys.exit(f"deploy.publish: {error}")
    except buckets.ERRORS as error:
        sys.exit(
            f"deploy.publish: {buckets.explain(error, FLAGS.model_base_path)}"
        )


if __name__ == "__main__":
    _define_flags()
    app.run(main)
