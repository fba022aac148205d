"""What the local server counts, in Prometheus' text format.

Names, labels and buckets are TF Serving's (`servables/tensorflow/util.cc`,
`util/prometheus_exporter.cc`), so that one dashboard serves both. Not
prometheus_client, which cannot write these names: it appends `_total`.
"""

import bisect
import itertools
import threading

REQUEST_COUNT = ":tensorflow:serving:request_count"
REQUEST_LATENCY = ":tensorflow:serving:request_latency"
# In microseconds: 10 us times a power of 1.8, up to 20 minutes.
BUCKET_LIMITS = tuple(10 * 1.8**index for index in range(33))


class Metrics:
    """Counters of the requests that a server has answered."""

    def __init__(self):
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], int] = {}
        self._latencies: dict[tuple[str, str, str], _Histogram] = {}

    def record(
        self,
        *,
        model_name: str,
        api: str,
        entrypoint: str,
        code: str,
        latency_s: float,
    ) -> None:
        """Counts a request.

        Args:
            model_name: a model of the server, or "": what clients make up
                must not fill the memory.
            api: "Predict", "Classify" or "Regress".
            entrypoint: "GRPC" or "REST".
            code: a key of `status_codes.HTTP_STATUS`.
            latency_s: from the whole request to the whole answer.
        """
        with self._lock:
            count_key = (model_name, code)
            self._counts[count_key] = self._counts.get(count_key, 0) + 1
            if code == "OK":
                key = (model_name, api, entrypoint)
                histogram = self._latencies.setdefault(key, _Histogram())
                histogram.add(latency_s * 1e6)

    def to_text(self) -> str:
        """Returns the page that Prometheus scrapes."""
        with self._lock:
            lines = [f"# TYPE {REQUEST_COUNT} counter"]
            for (name, code), count in sorted(self._counts.items()):
                labels = _labels(model_name=name, status=code)
                lines.append(f"{REQUEST_COUNT}{{{labels}}} {count}")
            lines.append(f"# TYPE {REQUEST_LATENCY} histogram")
            for key, histogram in sorted(self._latencies.items()):
                name, api, entrypoint = key
                labels = _labels(
                    model_name=name, API=api, entrypoint=entrypoint
                )
                lines += histogram.to_lines(REQUEST_LATENCY, labels)
        return "\n".join(lines) + "\n"


class _Histogram:
    """How many values fell below each of `BUCKET_LIMITS`."""

    def __init__(self):
        self._counts = [0] * (len(BUCKET_LIMITS) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect.bisect_right(BUCKET_LIMITS, value)] += 1
        self._sum += value

    def to_lines(self, name: str, labels: str) -> list[str]:
        limits = [*(f"{limit:g}" for limit in BUCKET_LIMITS), "+Inf"]
        totals = list(itertools.accumulate(self._counts))
        return [
            *(
                f'{name}_bucket{{{labels},le="{limit}"}} {total}'
                for limit, total in zip(limits, totals, strict=True)
            ),
            f"{name}_sum{{{labels}}} {self._sum:g}",
            f"{name}_count{{{labels}}} {totals[-1]}",
        ]


def _labels(**values: str) -> str:
    escapes = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
    return ",".join(
        f'{name}="{value.translate(escapes)}"' for name, value in values.items()
    )
