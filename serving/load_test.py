r"""Measures a server under load: TF Serving, or the local one.

    python -m serving.load_test --target=grpc://127.0.0.1:8500 \
        --model_name=classifier --output_dir=load scan.png folder/

`--mode=closed`: each of `--concurrency` clients asks again as soon as it is
answered, which finds the largest throughput. `--mode=open`: requests are due at
random moments, `--rate` a second on average, whether or not earlier ones have
been answered, as with users who know nothing of each other; a request's latency
counts from the moment when it was due. Nothing is tried again. Prints a line,
writes load_test.json and load_test.png.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import json
import os
import random
import statistics
import sys
import time

import numpy as np
from absl import flags

from serving import client, client_flags, image_files
from trainer import startup
from trainer.storage import paths

FLAGS = flags.FLAGS
MODES = ("closed", "open")
PERCENTILES = (50, 95, 99)
# In open mode. A server that is too slow for the rate would pile them up.
MAX_UNDER_WAY = 512


@dataclasses.dataclass(frozen=True)
class Sample:
    """One request.

    Attributes:
        due_s: when it was due, since the start.
        latency_s: from then to its answer.
        error: "" or the code of the server's error.
    """

    due_s: float
    latency_s: float
    error: str


def define_flags() -> None:
    """Defines the flags; only the command calls it."""
    client_flags.define_flags(batch_size=1)
    flags.adopt_module_key_flags(client_flags)
    flags.DEFINE_enum("mode", "closed", MODES, "How requests follow.")
    flags.DEFINE_integer(
        "concurrency", 8, "Clients at a time, in closed mode.", lower_bound=1
    )
    for name, default, lower_bound, meaning in (
        ("rate", 10.0, 0.01, "Requests a second, in open mode."),
        ("duration_s", 10.0, 0.1, "Seconds to measure."),
        ("warm_up_s", 1.0, 0, "Seconds to ask before that."),
    ):
        flags.DEFINE_float(name, default, meaning, lower_bound)
    flags.DEFINE_string("output_dir", ".", "Where JSON and PNG go.")
    flags.DEFINE_integer("seed", 0, "Of the moments in open mode.")


def run_closed(
    asked: client.Client,
    batches: list[list[bytes]],
    concurrency: int,
    duration_s: float,
) -> list[Sample]:
    """Returns the requests of clients that wait for each answer."""
    started = time.perf_counter()
    next_batch = itertools.cycle(batches)
    samples: list[Sample] = []

    def ask_until_the_end(unused_number) -> None:
        while (due := time.perf_counter()) < started + duration_s:
            samples.append(_ask(asked, next(next_batch), started, due))

    with concurrent.futures.ThreadPoolExecutor(concurrency) as executor:
        list(executor.map(ask_until_the_end, range(concurrency)))
    return samples


def run_open(
    asked: client.Client,
    batches: list[list[bytes]],
    rate: float,
    duration_s: float,
    seed: int,
) -> list[Sample]:
    """Returns the requests of a Poisson process.

    Raises:
        ValueError: the server is so slow that requests pile up.
    """
    generator = random.Random(seed)
    next_batch = itertools.cycle(batches)
    started = time.perf_counter()
    moment_s = generator.expovariate(rate)
    under_way = []
    with concurrent.futures.ThreadPoolExecutor(MAX_UNDER_WAY) as executor:
        while moment_s < duration_s:
            due = started + moment_s
            time.sleep(max(0, due - time.perf_counter()))
            under_way.append(
                executor.submit(_ask, asked, next(next_batch), started, due)
            )
            num_waiting = sum(not future.done() for future in under_way[-600:])
            if num_waiting >= MAX_UNDER_WAY:
                executor.shutdown(cancel_futures=True)
                raise ValueError(
                    f"The server must keep up with --rate={rate:g}: after "
                    f"{moment_s:.1f} s {num_waiting} requests wait for their "
                    "answers. Choose a lower rate."
                )
            moment_s += generator.expovariate(rate)
    return [future.result() for future in under_way]


def summarize(samples: list[Sample], batch_size: int) -> dict:
    """Returns throughput, latencies in ms and errors by code.

    Args:
        samples: at least one.
        batch_size: images in each request.
    """
    errors = collections.Counter(s.error for s in samples if s.error)
    latencies_ms = [1e3 * s.latency_s for s in samples if not s.error]
    # From the first request to the last answer, not the time that was set:
    # the last answers may come much later.
    elapsed_s = max(s.due_s + s.latency_s for s in samples)
    summary = {
        "num_requests": len(samples),
        "num_errors": sum(errors.values()),
        "errors": dict(errors),
        "elapsed_s": elapsed_s,
        "requests_per_s": len(latencies_ms) / elapsed_s,
        "images_per_s": len(latencies_ms) * batch_size / elapsed_s,
    }
    if latencies_ms:
        # Each percentile is the latency of a request.
        percentiles = np.percentile(
            latencies_ms, PERCENTILES, method="inverted_cdf"
        ).tolist()
        summary["latency_ms"] = {
            "mean": statistics.fmean(latencies_ms),
            **dict(
                zip(map("p{}".format, PERCENTILES), percentiles, strict=True)
            ),
            "max": max(latencies_ms),
        }
    return summary


def draw(samples: list[Sample], summary: dict, title: str, path: str) -> None:
    """Writes a PNG: latency of each request, and how many took how long."""
    os.environ["MPLBACKEND"] = "agg"  # a notebook's is not known outside of it
    from matplotlib import figure

    fig = figure.Figure(figsize=(11, 4), layout="constrained")
    left, right = fig.subplots(1, 2)
    for is_error, label, marker in ((0, "answered", "."), (1, "error", "x")):
        some = [s for s in samples if bool(s.error) == is_error]
        latencies = [1e3 * s.latency_s for s in some]
        if some:
            left.plot([s.due_s for s in some], latencies, marker, label=label)
        if some and not is_error:
            right.ecdf(latencies)
    left.set(xlabel="due at, s", ylabel="latency, ms", ylim=(0, None))
    left.legend()
    for name, value in summary.get("latency_ms", {}).items():
        if name.startswith("p"):
            right.axvline(value, color="grey", linewidth=0.8)
            # Percentiles may lie close together: each name at its own height.
            height = float(name[1:]) / 100 - 0.06
            right.annotate(f" {name} {value:.1f} ms", (value, height))
    right.set(xlabel="latency, ms", ylabel="share of the answers")
    fig.suptitle(
        f"{title}: {summary['images_per_s']:.1f} images/s, "
        f"{summary['num_errors']} errors in {summary['num_requests']} requests"
    )
    with paths.open_atomically(path) as file:
        fig.savefig(file, dpi=110)


def _ask(
    asked: client.Client, batch: list[bytes], started: float, due: float
) -> Sample:
    error = ""
    try:
        asked.predict(batch)
    except client.ServerError as caught:
        error = caught.code
    return Sample(due - started, time.perf_counter() - due, error)


def _read_batches(files: list[str], batch_size: int) -> list[list[bytes]]:
    images = []
    for file in image_files.find_files(files):
        for answer, encoded in image_files.read(file, {}):
            if answer.error is not None:
                raise ValueError(f"{answer.file}: {answer.error}")
            images.append(encoded)
    cycle = itertools.cycle(images)
    return [
        list(itertools.islice(cycle, batch_size))
        for _ in range(-(-len(images) // batch_size))
    ]


def run(files: list[str]) -> None:
    """Asks, prints a line and writes the files."""
    batches = _read_batches(files, FLAGS.batch_size)
    os.makedirs(FLAGS.output_dir, exist_ok=True)
    with client_flags.open_client(max_attempts=1) as asked:
        asked.predict(batches[0])  # Says what is wrong, before any load.
        run_closed(asked, batches, FLAGS.concurrency, FLAGS.warm_up_s)
        if FLAGS.mode == "closed":
            name, value = "concurrency", FLAGS.concurrency
            samples = run_closed(asked, batches, value, FLAGS.duration_s)
        else:
            name, value = "rate", FLAGS.rate
            samples = run_open(
                asked, batches, value, FLAGS.duration_s, FLAGS.seed
            )
    if not samples:
        raise ValueError(
            "There must be at least one request in --duration_s. Received: "
            f"--duration_s={FLAGS.duration_s:g}, --rate={FLAGS.rate:g}."
        )
    summary = summarize(samples, FLAGS.batch_size)
    names = ("target", "model_name", "mode", name, "duration_s", "batch_size")
    setting = {name: FLAGS[name].value for name in names}
    report = os.path.join(FLAGS.output_dir, "load_test.json")
    text = json.dumps({**setting, **summary}, indent=2)
    paths.write_atomically(report, text)
    draw(
        samples,
        summary,
        f"{FLAGS.target}, {FLAGS.mode} loop, {name} {value:g}",
        os.path.join(FLAGS.output_dir, "load_test.png"),
    )
    latencies = summary.get("latency_ms", {})
    print(
        f"{summary['images_per_s']:.1f} images/s, latency in ms: "
        + ", ".join(f"{name} {ms:.1f}" for name, ms in latencies.items())
        + f"; {summary['num_errors']} errors in {len(samples)} requests. "
        f"See {report}"
    )


def main(argv):
    try:
        run(argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"serving.load_test: {error}")


if __name__ == "__main__":
    define_flags()
    startup.run(
        main, {"mode": "Load", "output_dir": "Output", "target": "Server"}
    )
