"""What every command does before its work: its flags, TensorFlow and Keras."""

import contextlib
import io
import logging as python_logging
import os
import pathlib
import runpy
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping

from absl import app, flags, logging

# Exit code after SIGTERM, that of TensorFlow's own preemption handler;
# schedulers restart a job on any code but 0.
PREEMPTED = 42
# Of a command that SIGPIPE ends, as shells report it.
_NO_READER = 141

_SCRIPTS = {
    "build": "trainer.data.build_records",
    "train": "trainer.task",
    "tune": "tuning.task",
    "evaluate": "serving.evaluate",
    "serve": "serving.local_server",
    "predict": "serving.predict",
    "publish": "deploy.publish",
    "submit": "deploy.vertex.submit",
}


def run_script() -> None:
    """`lightbox-train` is `python -m trainer.task`, and so are the others."""
    name = pathlib.Path(sys.argv[0]).stem.removeprefix("lightbox-")
    runpy.run_module(_SCRIPTS[name], run_name="__main__", alter_sys=True)


def run(
    main: Callable[[list[str]], None], headings: Mapping[str, str] | None = None
) -> None:
    """Runs a command, or tells its help.

    Args:
        main: of the command, given what is no flag.
        headings: of its help, each by the first flag under it.
    """

    def parse(argv: list[str]) -> list[str]:
        own = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
        if {"-h", "-help", "--help"} & set(own):
            print(_help(headings or {}))
            sys.exit()
        rest = app.parse_flags_with_usage(argv)
        # A shell leaves the tilde of --flag=~/path alone.
        for flag in flags.FLAGS.get_key_flags_for_module(argv[0]):
            if isinstance(flag.value, str) and flag.value.startswith("~/"):
                flag.value = os.path.expanduser(flag.value)
        return rest

    out = sys.stdout
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Output(out.fileno(), "wb", closefd=False)),
        encoding=out.encoding,
        # A terminal that lacks a letter of a class name shows its code.
        errors="backslashreplace",
        line_buffering=out.line_buffering,
        write_through=out.write_through,
    )
    try:
        app.run(main, flags_parser=parse)
    finally:
        sys.stdout.flush()


class _Output(io.FileIO):
    """Standard output whose reader may leave, as `head` does."""

    def write(self, data) -> int:
        try:
            return super().write(data)
        except OSError as error:
            # What is still to be written goes nowhere.
            with open(os.devnull, "wb") as sink:
                os.dup2(sink.fileno(), self.fileno())
            if isinstance(error, BrokenPipeError):
                sys.exit(_NO_READER)
            sys.exit(f"standard output cannot be written: {error.strerror}.")


def describe_flags(
    headings: Mapping[str, str],
) -> Iterator[tuple[str, str, str]]:
    """Heading, name and text of each flag of a command, as its help has them.

    Args:
        headings: as of `run`.
    """
    heading = "Flags"
    for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0]):
        heading = headings.get(flag.name, heading)
        text = flag.help
        if getattr(flag.parser, "lower_bound", None) is not None:
            text += f" ({flag.parser.syntactic_help})"
        if flag.default not in (None, "", []):
            text += f" (default: {flag.default_as_str})"
        name = f"[no]{flag.name}" if flag.boolean else flag.name
        yield heading, f"--{name}", " ".join(text.split())


def _help(headings: Mapping[str, str]) -> str:
    lines, heading = [sys.modules["__main__"].__doc__.strip()], ""
    for found, name, text in describe_flags(headings):
        if found != heading:
            heading = found
            lines.append(f"\n{heading}:")
        lines += textwrap.wrap(
            f"{name}: {text}",
            80,
            initial_indent="  ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    saved, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


def import_tensorflow() -> None:
    """Imports TensorFlow and drops the notes that its C++ code prints.

    TensorFlow 2.21 prints a dozen lines before it reads its own log level, and
    a user's one-line error would drown in them. Set `TF_CPP_MIN_LOG_LEVEL` to
    see them, for example to learn why a GPU is not used.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    with _silent_stderr():
        import tensorflow as tf

        # The CUDA driver is looked for here, without starting a device.
        tf.config.list_physical_devices("GPU")


def import_keras() -> None:
    """Imports TensorFlow and Keras, set as the models here need them.

    What `~/.keras/keras.json` or a notebook sets is meant for other work: with
    `channels_first` a model would train, and learn nothing.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    # A notebook's is not known outside of it.
    os.environ["MPLBACKEND"] = "agg"
    import_tensorflow()
    import keras

    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")


def set_up_logging(package_dir: str) -> None:
    """Logs one plain line per message, from INFO on unless --verbosity says.

    Args:
        package_dir: messages below WARNING come from files in it alone:
            TensorFlow logs each file that a checkpoint or export writes.
    """
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.INFO)
    handler = logging.get_absl_handler()
    handler.setFormatter(
        python_logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S")
    )
    handler.addFilter(
        lambda record: (
            record.levelno >= python_logging.WARNING
            or record.pathname.startswith(package_dir)
        )
    )
