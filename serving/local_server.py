r"""Serves SavedModels with TF Serving's protocols, for laptops and tests.

    python -m serving.local_server --model_base_path=run/export \
        --model_name=classifier

The newest version under the base path answers; a new one is picked up within
a second and takes over once it has loaded. With `--model_config_file` it
serves what TF Serving would: several models, other version policies, labels.
The REST port also shows a page, at `/`, that one can drop images on. In
production, run TF Serving itself: `--engine=tensorflow_model_server` does so
with the same flags if the program is installed.
"""

import os
import resource
import shutil
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent import futures

from absl import app, flags, logging

from trainer import startup
from trainer.export import versions
from trainer.storage import paths

MAX_REQUEST_BYTES = 256 * 2**20
TIMEOUT_S = 30.0
GRACE_S = 30.0
# Of the time to stop; the rest is for the process to end.
CALLS_SHARE = 0.9
ENGINES = ("local", "tensorflow_model_server")

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags; only the command calls it."""
    flags.DEFINE_string(
        "model_base_path",
        None,
        "Directory that holds one numbered directory per version.",
    )
    flags.DEFINE_string("model_name", None, "What clients call the model.")
    flags.DEFINE_string(
        "model_config_file",
        None,
        "Instead of the two: a ModelServerConfig as text, as TF Serving reads "
        "it. A change of the file comes into force within a second.",
    )
    for name, default, protocol in (
        ("port", 8500, "gRPC"),
        ("rest_api_port", 8501, "REST"),
    ):
        meaning = f"Port for {protocol}, 0 for any free one."
        flags.DEFINE_integer(name, default, meaning, 0, 65535)
    flags.DEFINE_string(
        "host",
        "127.0.0.1",
        "Address to listen on. Images of patients travel unencrypted: choose "
        "0.0.0.0 on a trusted network only.",
    )
    flags.DEFINE_list(
        "allowed_hosts",
        [],
        "Names, without ports, that the REST API may be asked by, in Host, and "
        "that web pages which ask it may have, in Origin. Where --host is this "
        "machine alone, its own are always allowed and all others refused; "
        "elsewhere, that is so if any are given.",
    )
    flags.DEFINE_bool(
        "allow_config_reload",
        True,
        "Let clients replace the models that are served, over gRPC. On by "
        "default because TF Serving always does.",
    )
    flags.DEFINE_integer(
        "rest_api_timeout_in_ms",
        30_000,
        "Milliseconds for a request to arrive, and then to be answered over "
        "REST.",
        lower_bound=1,
    )
    flags.DEFINE_integer(
        "max_request_bytes",
        MAX_REQUEST_BYTES,
        "Larger requests are refused, as are those that would unpack into more "
        "or whose values would take three times as much memory, or more than "
        "100,000 instances.",
        lower_bound=1024,
    )
    flags.DEFINE_float(
        "shutdown_grace_s",
        GRACE_S,
        "Seconds to end after Ctrl-C or SIGTERM, of which requests under way "
        "get nine tenths.",
        lower_bound=0.1,
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
        grpc_target, rest_target: the same as `serving.client` takes them.
    """

    def __init__(self, models, host, grpc_server, rest_server):
        self._models = models
        self._servers = (grpc_server, rest_server)
        self.grpc_port = grpc_server.port
        self.rest_port = rest_server.port
        url_host = f"[{host}]" if ":" in host else host
        self.grpc_target = f"grpc://{url_host}:{self.grpc_port}"
        self.rest_target = f"http://{url_host}:{self.rest_port}"

    def stop(self) -> None:
        """Closes both ports, then answers what is under way."""
        for server in self._servers:
            server.close()
        self._models.stop()
        for server in self._servers:
            server.join()


def start(
    model_base_path: str | None = None,
    model_name: str | None = None,
    port: int = 0,
    rest_api_port: int = 0,
    host: str = "127.0.0.1",
    *,
    config_file: str | None = None,
    timeout_s: float = TIMEOUT_S,
    max_request_bytes: int = MAX_REQUEST_BYTES,
    allowed_hosts: Sequence[str] = (),
    allow_config_reload: bool = True,
    grace_s: float = GRACE_S,
) -> LocalServer:
    """Loads the models and starts serving them.

    The arguments are those of the flags, but for ports, which are free ones
    by default, `timeout_s`, seconds for `--rest_api_timeout_in_ms`, and
    `grace_s` for `--shutdown_grace_s`.

    Raises:
        FileNotFoundError: there is no such directory or no version in it.
        ValueError: the configuration is wrong, or a model does not load.
        OSError: a port is taken.
    """
    if config_file is None:
        check_base_path(model_base_path)
    # TensorFlow takes seconds to import: only once the flags are known good.
    startup.import_keras()
    from serving.server import grpc_service, limits, metrics, rest_api

    models = _load_models(model_base_path, model_name, config_file)
    counters = metrics.Metrics(models)
    limited = limits.Limits(max_request_bytes)
    grpc_server = grpc_service.GrpcServer(
        models,
        counters,
        limited,
        host,
        port,
        timeout_s=timeout_s,
        allow_config_reload=allow_config_reload,
        grace_s=CALLS_SHARE * grace_s,
    )
    api = rest_api.RestApi(models, counters, limited, timeout_s)
    try:
        rest_server = rest_api.RestServer(
            api, host, rest_api_port, allowed_hosts, CALLS_SHARE * grace_s
        )
    except OSError:
        grpc_server.close()
        raise
    models.start_polling(config_file=config_file)
    return LocalServer(models, host, grpc_server, rest_server)


def _load_models(
    model_base_path: str | None, model_name: str | None, config_file: str | None
):
    """Returns the ServedModels, each with a version that is available."""
    from serving import status_codes
    from serving.server import saved_models, served_models

    if config_file is None:
        path = _absolute(model_base_path)
        config = served_models.make_config(model_name, path)
    else:
        config = served_models.read_config(config_file)
    models = served_models.ServedModels(saved_models.load)
    try:
        models.reload(config)
        for name in models.names:
            states = models.states(name, None)
            if all(s.state != "AVAILABLE" for s in states.values()):
                newest, state = next(iter(states.items()))
                raise ValueError(
                    f"Version {newest} of {name} does not load: "
                    f"{state.error_message}. Remove it or export it again."
                )
    except status_codes.StatusError as error:
        raise ValueError(f"{error.message}.") from error
    return models


def _absolute(model_base_path: str) -> str:
    if paths.is_bucket(model_base_path):
        return model_base_path
    return os.path.abspath(model_base_path)


def check_base_path(model_base_path: str) -> None:
    """Raises FileNotFoundError unless the directory holds a version."""
    if paths.is_bucket(model_base_path):
        return  # It is listed when the server starts.
    if not os.path.isdir(model_base_path):
        raise FileNotFoundError(
            "--model_base_path must be a directory. Received: "
            f"{model_base_path}."
        )
    if versions.list_versions(model_base_path):
        return
    advice = "Export a model into it, for example with `trainer.task`."
    if os.path.exists(os.path.join(model_base_path, versions.GRAPH_FILE)):
        parent = os.path.dirname(os.path.abspath(model_base_path))
        advice = f"It is a version itself: pass {parent}."
    raise FileNotFoundError(
        "--model_base_path must hold a directory with a numeric name for each "
        f"version. Received: {model_base_path}. {advice}"
    )


def check_flags() -> None:
    """Raises ValueError unless the flags name either a model or a file."""
    one_model = (FLAGS.model_base_path, FLAGS.model_name)
    if FLAGS.model_config_file is not None:
        if any(one_model):
            raise ValueError(
                "Pass either --model_config_file, or --model_base_path and "
                "--model_name."
            )
        if not os.path.isfile(FLAGS.model_config_file):
            raise FileNotFoundError(
                "--model_config_file must be a file. Received: "
                f"{FLAGS.model_config_file}."
            )
        return
    if not all(one_model):
        raise ValueError(
            "Pass --model_base_path and --model_name, or --model_config_file. "
            f"Received: --model_base_path={FLAGS.model_base_path}, "
            f"--model_name={FLAGS.model_name}."
        )
    check_base_path(FLAGS.model_base_path)


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
    if FLAGS.allowed_hosts or not FLAGS.allow_config_reload:
        raise ValueError(
            "tensorflow_model_server knows neither --allowed_hosts nor "
            "--noallow_config_reload. Leave them out, or use --engine=local."
        )
    logging.warning(
        "tensorflow_model_server listens on all addresses, whatever --host"
    )
    names = ("port", "rest_api_port", "rest_api_timeout_in_ms")
    arguments = [f"--{name}={FLAGS[name].value}" for name in names]
    if FLAGS.model_config_file is not None:
        arguments += [
            f"--model_config_file={os.path.abspath(FLAGS.model_config_file)}",
            "--model_config_file_poll_wait_seconds=1",
            "--allow_version_labels_for_unavailable_models=true",
        ]
    else:
        arguments += [
            f"--model_base_path={_absolute(FLAGS.model_base_path)}",
            f"--model_name={FLAGS.model_name}",
        ]
    os.execv(program, [program, *arguments])


def serve_until_signal() -> None:
    """Serves until Ctrl-C or SIGTERM, then ends in time, whatever goes on."""
    _allow_many_files()
    asked_to_stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked_to_stop.set())
    started: futures.Future = futures.Future()
    # Not in this thread: a load may take minutes, and hears of no signal.
    threading.Thread(target=_start, args=(started,), daemon=True).start()
    started.add_done_callback(
        lambda done: done.exception() and asked_to_stop.set()
    )
    asked_to_stop.wait()
    if started.done():
        ending = threading.Timer(FLAGS.shutdown_grace_s, _end)
        ending.daemon = True
        ending.start()
        started.result().stop()
    _end()


def _end() -> None:
    """Ends the process; no thread that loads or computes is waited for."""
    from serving.server import bucket_versions

    bucket_versions.remove_copies()
    logging.flush()
    os._exit(0)


def _start(started: futures.Future) -> None:
    try:
        server = start(
            FLAGS.model_base_path,
            FLAGS.model_name,
            FLAGS.port,
            FLAGS.rest_api_port,
            FLAGS.host,
            config_file=FLAGS.model_config_file,
            timeout_s=FLAGS.rest_api_timeout_in_ms / 1000,
            max_request_bytes=FLAGS.max_request_bytes,
            allowed_hosts=FLAGS.allowed_hosts,
            allow_config_reload=FLAGS.allow_config_reload,
            grace_s=FLAGS.shutdown_grace_s,
        )
    except BaseException as error:
        started.set_exception(error)
        return
    print(
        f"Serving {FLAGS.model_name or FLAGS.model_config_file}: "
        f"{server.grpc_target} and {server.rest_target}. Ctrl-C stops.",
        flush=True,
    )
    started.set_result(server)


def _allow_many_files() -> None:
    """Lets both ports have as many connections as they take."""
    _, largest = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (largest, largest))


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    try:
        check_flags()
        if FLAGS.engine == "tensorflow_model_server":
            run_model_server()
        else:
            serve_until_signal()
    except ImportError as error:
        sys.exit(
            f"serving.local_server: {error}: install the extra `server`, for "
            "example with pip install -e '.[server]'."
        )
    except (ValueError, OSError) as error:
        sys.exit(f"serving.local_server: {error}")


if __name__ == "__main__":
    define_flags()
    startup.run(
        main,
        {"model_base_path": "Models", "port": "Listening", "engine": "Engine"},
    )
