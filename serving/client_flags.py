"""The flags of commands that ask a server."""

from absl import flags

from serving import client

FLAGS = flags.FLAGS


def define_flags(batch_size: int) -> None:
    """Defines the flags; only commands call it.

    Args:
        batch_size: default of the flag of that name.
    """
    where = "grpc://HOST:PORT or http://HOST:PORT; grpcs or https for TLS."
    flags.DEFINE_string("target", None, where, required=True)
    flags.DEFINE_string(
        "model_name", None, "What the server calls the model.", required=True
    )
    flags.DEFINE_float(
        "timeout_s",
        30.0,
        "Seconds to wait for each request, retries included.",
        lower_bound=0.001,
    )
    flags.DEFINE_integer(
        "batch_size", batch_size, "Images per request.", lower_bound=1
    )
    flags.DEFINE_string(
        "ca_file", None, "PEM file of the authority to trust with TLS."
    )
    flags.DEFINE_string(
        "token_file", None, "File with a token to send as authorization."
    )


def open_client(
    version: int | None = None, max_attempts: int = client.MAX_ATTEMPTS
) -> client.Client:
    """Returns a client as the flags say; see `client.Client`.

    Raises:
        ValueError: the target is not of its form.
        OSError: the token cannot be read.
    """
    return client.Client(
        FLAGS.target,
        FLAGS.model_name,
        version=version,
        timeout_s=FLAGS.timeout_s,
        batch_size=FLAGS.batch_size,
        token=client.read_token(FLAGS.token_file),
        ca_file=FLAGS.ca_file,
        max_attempts=max_attempts,
    )
