"""Puts an exported version where TF Serving finds it, or takes one back.

    python -m deploy.publish --export_dir=run/export \\
        --model_base_path=gs://bucket/classifier
    python -m deploy.publish --model_base_path=gs://bucket/classifier --rollback

A server never sees half a version: on a disk it appears by a rename, in a
bucket its `saved_model.pb` comes last. The same command may be run again, after
a kill or without need: it finishes what was begun, and publishes nothing twice.
"""

import os
import sys
import time

from absl import app, flags

from deploy import model_base, version_labels
from serving import client
from trainer import startup
from trainer.export import blessing, signature, versions
from trainer.storage import paths, staging

FLAGS = flags.FLAGS
_POLL_S = 0.5


def _define_flags() -> None:
    text = flags.DEFINE_string
    text(
        "export_dir",
        "",
        "Export directory of a run, local or gs://, whose newest version is "
        "published, or one version in it.",
    )
    text(
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
        0,
    )
    flags.DEFINE_bool("force", False, "Publish a version that is not blessed.")
    flags.DEFINE_enum(
        "label",
        None,
        list(version_labels.LABELS),
        "Label that the version gets in --model_config_file.",
    )
    text(
        "model_config_file",
        "",
        "TF Serving's file of models and labels, local or gs://; made if it "
        "does not exist.",
    )
    text("model_name", signature.MODEL_NAME, "In the file and on servers.")
    text(
        "target",
        "",
        "Server that reads the file, grpc://HOST:PORT or http://HOST:PORT: a "
        "label moves when it has loaded the version. Without it the command "
        "stops before that and is run again.",
    )
    flags.DEFINE_integer("timeout_s", 120, "Seconds to wait for the server.", 1)


def publish(version_dir: str, base, force: bool = False) -> int:
    """Publishes an exported version.

    Args:
        version_dir: local.
        base: from `model_base.open_base`.
        force: although it is not blessed.

    Returns:
        The number that servers know it by.

    Raises:
        ValueError: if it must not or cannot be published.
    """
    versions.list_plain_files(version_dir)
    refusal = blessing.refusal(version_dir)
    if refusal and not force:
        raise ValueError(f"{refusal} Or publish it all the same with --force.")
    changed = versions.changed_files(version_dir)
    if changed:
        raise ValueError(
            f"{paths.join(version_dir, changed[0])} is missing or not the file "
            "that was exported: export the model again."
        )
    export = paths.as_given(version_dir)
    with base.lock():
        base.tidy()
        number = base.find(version_dir)
        if number is not None:
            print(f"{paths.join(base.path, str(number))} holds {export}.")
            return number
        number = base.add(version_dir)
    sizes = versions.file_sizes(version_dir)
    print(
        f"Published {export} as {paths.join(base.path, str(number))} "
        f"({len(sizes)} files, {sum(sizes) / 1e6:.1f} MB)."
    )
    return number


def roll_back(base) -> None:
    """Takes the newest version away from servers; nothing is deleted.

    Raises:
        ValueError: if there is no earlier version to go back to.
    """
    with base.lock():
        withdrawn = base.tidy()
        published = list(versions.list_versions(base.path))
        if not withdrawn:
            if len(published) < 2:
                raise ValueError(
                    f"{base.path} has {len(published)} version(s): there is "
                    "none to go back to."
                )
            withdrawn = [published.pop()]
            base.withdraw(*withdrawn)
    number = withdrawn[-1]
    print(
        f"{paths.join(base.path, str(number))} is withdrawn, servers go back "
        f"to {published[-1]}; its files are in {base.path}/withdrawn.{number}."
    )


def keep_newest(base, count: int, named: set[int]) -> None:
    """Removes all versions but the newest ones and those named."""
    with base.lock():
        base.tidy()
        kept = list(versions.list_versions(base.path))[-count:]
        for number in base.begun_versions():
            # A newer one may be on its way.
            if number < min(kept, default=0) and number not in named:
                base.remove(number)
                print(f"Removed {paths.join(base.path, str(number))}.")


def move_label(base, label: str, number: int) -> None:
    """Makes the steps towards a label that can be made now.

    Raises:
        ValueError: if the server does not load the version.
    """
    path, name = FLAGS.model_config_file, FLAGS.model_name
    version = paths.join(base.path, str(number))
    earlier = [n for n in versions.list_versions(base.path) if n < number]
    for _ in range(2):
        config = version_labels.read(path)
        if version_labels.labels(config, name).get(label) == number:
            print(f"{label} is {version}.")
            return
        config, is_final = version_labels.next_step(
            config, name, base.path, label, number, max(earlier, default=None)
        )
        if is_final and FLAGS.target:
            _wait_until_loaded(number)
        version_labels.write(path, config)
        if is_final:
            print(f"{path}: {label} is {version} now.")
            return
        print(f"{path}: servers are to load version {number}.")
        if not FLAGS.target:
            print(
                f"When version {number} is AVAILABLE, run the same command "
                f"again, and {label} moves to it."
            )
            return


def _wait_until_loaded(number: int) -> None:
    deadline = time.monotonic() + FLAGS.timeout_s
    reason = "it does not answer"
    with client.Client(FLAGS.target, FLAGS.model_name) as server:
        while time.monotonic() < deadline:
            try:
                states = {s.version: s for s in server.status()}
            except client.ServerError as error:
                reason = str(error)
            else:
                reason = "it does not know it"
                if state := states.get(number):
                    if state.state == "AVAILABLE":
                        return
                    reason = f"it is {state.state} {state.error}".strip()
            time.sleep(_POLL_S)
    raise ValueError(
        f"{FLAGS.target} has not loaded version {number} within "
        f"{FLAGS.timeout_s} s ({reason}): the label stays where it was. Does "
        "the server read the model config file again "
        "(--model_config_file_poll_wait_seconds)?"
    )


def _check_flags() -> None:
    if bool(FLAGS.export_dir) == FLAGS.rollback:
        raise ValueError("Give either --export_dir, to publish, or --rollback.")
    if FLAGS.label and not FLAGS.model_config_file:
        raise ValueError(
            "--label is written into TF Serving's --model_config_file: give it."
        )


def _move_label_back(base) -> None:
    config = version_labels.read(FLAGS.model_config_file)
    now = version_labels.labels(config, FLAGS.model_name).get(FLAGS.label)
    published = versions.list_versions(base.path)
    earlier = [number for number in published if now and number < now]
    if not earlier:
        raise ValueError(
            f"{FLAGS.label} is {now or 'no version'} in "
            f"{FLAGS.model_config_file}, and {base.path} has none before it: "
            "there is nothing to go back to."
        )
    move_label(base, FLAGS.label, earlier[-1])


def _run(place: staging.Workspace) -> None:
    _check_flags()
    base = model_base.open_base(FLAGS.model_base_path)
    if not FLAGS.rollback:
        export = versions.find_newest(FLAGS.export_dir)
        number = publish(place.stage(export, "export_dir"), base, FLAGS.force)
        if FLAGS.label:
            move_label(base, FLAGS.label, number)
    elif FLAGS.label:
        _move_label_back(base)
    else:
        roll_back(base)
    if FLAGS.keep:
        config = version_labels.read(FLAGS.model_config_file)
        named = version_labels.served_versions(config, FLAGS.model_name)
        keep_newest(base, FLAGS.keep, named)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    startup.set_up_logging(os.path.dirname(os.path.dirname(__file__)))
    with staging.Workspace() as place:
        try:
            _run(place)
        except (ValueError, OSError) as error:
            sys.exit(f"deploy.publish: {error}")


if __name__ == "__main__":
    _define_flags()
    startup.run(main, {"export_dir": "Versions", "label": "Labels of versions"})
