r"""Serves one SavedModel with TF Serving's protocols, for laptops and tests.

    python -m serving.local_server --model_base_path=run/export \
        --model_name=brain_mri

The newest version under the base path answers; a new one is picked up within
a second and takes over once it has loaded. In production, run TF Serving
itself: `--engine=tensorflow_model_server` does so with the same flags if the
program is installed.
"""

import os
import shutil
import signal
import sys
import threading

from absl import app, flags, logging

from trainer import startup

ENGINES = ("local", "tensorflow_model_server")

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags; only the command calls it."""
    flags.DEFINE_string(
        "model_base_path",
        None,
        "Directory that holds one numbered directory per version.",
        required=True,
    )
    flags.DEFINE_string(
        "model_name", None, "What clients call the model.", required=True
    )
    flags.DEFINE_integer(
        "port",
        8500,
        "Port for gRPC, 0 for any free one.",
        lower_bound=0,
        upper_bound=65535,
    )
    flags.DEFINE_integer(
        "rest_api_port",
        8501,
        "Port for REST, 0 for any free one.",
        lower_bound=0,
        upper_bound=65535,
    )
    flags.DEFINE_string(
        "host",
        "127.0.0.1",
        "Address to listen on. Images of patients travel unencrypted: choose "
        "0.0.0.0 on a trusted network only.",
    )
    flags.DEFINE_enum(
        "engine",
        "local",
        ENGINES,
        "`local` serves from this process; `tensorflow_model_server` runs "
        "the program of that name instead.",
    )


class LocalServer:
    """A running server.

    Attributes:
        grpc_port: where gRPC answers.
        rest_port: where REST answers.
        grpc_target: the same as `serving.client` takes it.
        rest_target: likewise.
    """

    def __init__(self, versions, host, grpc_server, grpc_port, rest_server):
        self._versions = versions
        self._grpc_server = grpc_server
        self._rest_server = rest_server
        self.grpc_port = grpc_port
        self.rest_port = rest_server.port
        url_host = f"[{host}]" if ":" in host else host
        self.grpc_target = f"grpc://{url_host}:{self.grpc_port}"
        self.rest_target = f"http://{url_host}:{self.rest_port}"

    def stop(self, grace_s: float = 5.0) -> None:
        """Answers what is under way, then closes both ports.

        Args:
            grace_s: how long a gRPC request may take to finish.
        """
        self._versions.stop()
        stopped = self._grpc_server.stop(grace_s)
        self._rest_server.stop()
        stopped.wait()


def start(
    model_base_path: str,
    model_name: str,
    port: int = 0,
    rest_api_port: int = 0,
    host: str = "127.0.0.1",
) -> LocalServer:
    """Loads the newest version and starts serving it.

    Args:
        model_base_path: directory that holds the version directories.
        model_name: what clients call the model.
        port: for gRPC, 0 for a free one.
        rest_api_port: for REST, 0 for a free one.
        host: address to listen on.

    Raises:
        FileNotFoundError: there is no such directory or no version in it.
        ValueError: the newest version does not load.
        OSError: a port is taken.
    """
    check_base_path(model_base_path)
    # TensorFlow takes seconds to import: only once the flags are known good.
    startup.import_tensorflow()
    from serving import grpc_service, model_versions, rest_api, saved_models

    versions = model_versions.ModelVersions(
        model_name, model_base_path, saved_models.load
    )
    versions.refresh()
    newest, state = next(iter(versions.states(model_name, None).items()))
    if state.state != "AVAILABLE":
        raise ValueError(
            f"Version {newest} under {model_base_path} does not load: "
            f"{state.error_message}. Remove it or export it again."
        )
    grpc_server, grpc_port = grpc_service.start(versions, host, port)
    try:
        rest_server = rest_api.RestServer(versions, host, rest_api_port)
    except OSError:
        grpc_server.stop(None)
        raise
    versions.start_polling()
    return LocalServer(versions, host, grpc_server, grpc_port, rest_server)


def check_base_path(model_base_path: str) -> None:
    """Raises FileNotFoundError unless the directory holds a version."""
    from serving import model_versions

    if not os.path.isdir(model_base_path):
        raise FileNotFoundError(
            "--model_base_path must be a directory. Received: "
            f"{model_base_path}."
        )
    if model_versions.find_versions(model_base_path):
        return
    advice = "Export a model into it, for example with `trainer.task`."
    if os.path.exists(os.path.join(model_base_path, "saved_model.pb")):
        parent = os.path.dirname(os.path.abspath(model_base_path))
        advice = f"It is a version itself: pass {parent}."
    raise FileNotFoundError(
        "--model_base_path must hold a directory with a numeric name for each "
        f"version. Received: {model_base_path}. {advice}"
    )


def run_model_server() -> None:
    """Replaces this process with `tensorflow_model_server`."""
    program = shutil.which("tensorflow_model_server")
    if program is None:
        raise FileNotFoundError(
            "--engine=tensorflow_model_server needs that program on the PATH. "
            "Install TF Serving, or use --engine=local."
        )
    if not (FLAGS.port and FLAGS.rest_api_port):
        raise ValueError(
            "--engine=tensorflow_model_server cannot choose free ports. Pass "
            "--port and --rest_api_port."
        )
    logging.warning(
        "tensorflow_model_server listens on all addresses, whatever --host"
    )
    arguments = [
        f"--model_base_path={os.path.abspath(FLAGS.model_base_path)}",
        f"--model_name={FLAGS.model_name}",
        f"--port={FLAGS.port}",
        f"--rest_api_port={FLAGS.rest_api_port}",
    ]
    os.execv(program, [program, *arguments])


def serve_until_signal() -> None:
    """Serves until Ctrl-C or SIGTERM."""
    server = start(
        FLAGS.model_base_path,
        FLAGS.model_name,
        FLAGS.port,
        FLAGS.rest_api_port,
        FLAGS.host,
    )
    asked_to_stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked_to_stop.set())
    print(
        f"Serving {FLAGS.model_name}: {server.grpc_target} and "
        f"{server.rest_target}. Ctrl-C stops.",
        flush=True,
    )
    asked_to_stop.wait()
    server.stop()


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    try:
        if FLAGS.engine == "tensorflow_model_server":
            check_base_path(FLAGS.model_base_path)
            run_model_server()
        else:
            serve_until_signal()
    except (ValueError, OSError) as error:
        print(f"serving.local_server: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    define_flags()
    app.run(main)
