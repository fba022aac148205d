r"""32 clients for a minute: a bad version, a reload, 5 % malformed requests.

    python -m tests.benchmarks.serving_stress

Server and clients share a process, so its memory has both; the model is tiny,
so that requests are many. Fails if a good request failed.
"""

import pathlib
import sys
import tempfile

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_integer("num_clients", 32, "Half over gRPC, half over REST.")
flags.DEFINE_float("duration_s", 60.0, "Of the whole run.")


def main(argv):
    from tests.serving import brightness
    from tests.serving.server import stress

    scratch = pathlib.Path(tempfile.mkdtemp())
    brightness.save_versions(scratch / "models")
    (scratch / "base").mkdir()
    outcome = stress.run(
        scratch / "models",
        scratch / "base",
        num_clients=FLAGS.num_clients,
        duration_s=FLAGS.duration_s,
    )
    before, after = outcome.memory_mb
    print(
        f"{outcome.num_good} good requests answered, "
        f"{outcome.num_malformed} malformed refused, "
        f"{len(outcome.failures)} failures; versions {outcome.versions}; "
        f"memory {before:.0f} MB after a quarter, {after:.0f} MB in the end"
    )
    for line in outcome.failures[:10]:
        print(line, file=sys.stderr)
    sys.exit(bool(outcome.failures))


if __name__ == "__main__":
    app.run(main)
