"""What the local server counts, for Prometheus.

Names, labels and buckets are TF Serving's (`servables/tensorflow/util.cc`,
`util/prometheus_exporter.cc`), so that one dashboard serves both.
"""

import prometheus_client

from serving.server import served_models

REQUEST_COUNT = ":tensorflow:serving:request_count"
REQUEST_LATENCY = ":tensorflow:serving:request_latency"
# In microseconds: 10 us times a power of 1.8, up to 20 minutes.
BUCKET_LIMITS = tuple(10 * 1.8**index for index in range(33))

# Nobody asks when a series began.
prometheus_client.disable_created_metrics()


class Metrics:
    """Counters of the requests that a server has answered."""

    def __init__(self, models: served_models.ServedModels):
        """Counts nothing yet.

        By name it counts `models`: those that clients make up must not fill
        the memory.
        """
        self._models = models
        self._registry = prometheus_client.CollectorRegistry()
        # A Counter would put `_total` behind the name.
        self._count = prometheus_client.Gauge(
            *(REQUEST_COUNT, "Requests.", ["model_name", "status"]),
            registry=self._registry,
        )
        self._latency = prometheus_client.Histogram(
            REQUEST_LATENCY,
            "Microseconds from request to answer.",
            ["model_name", "API", "entrypoint"],
            registry=self._registry,
            buckets=BUCKET_LIMITS,
        )

    def record(
        self, name: str, api: str, entrypoint: str, code: str, latency_s: float
    ) -> None:
        """Counts a request.

        Args:
            name: the model that it names.
            api: "Predict" over gRPC, "predict" over REST, as TF Serving says.
            entrypoint: "GRPC" or "REST".
            code: a key of `status_codes.HTTP_STATUS`.
            latency_s: from the whole request to the whole answer.
        """
        if name not in self._models.names:
            name = ""
        self._count.labels(name, code).inc()
        if code == "OK":
            self._latency.labels(name, api, entrypoint).observe(latency_s * 1e6)

    def to_text(self) -> str:
        """Returns the page that Prometheus scrapes."""
        text = prometheus_client.generate_latest(self._registry).decode()
        return text.replace(
            f"{REQUEST_COUNT} gauge", f"{REQUEST_COUNT} counter"
        )
