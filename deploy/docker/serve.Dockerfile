# TF Serving with the project's settings, and with a model or without:
#
#   docker build -f deploy/docker/serve.Dockerfile -t brain-mri:1 --build-context=export=run/export .
#   docker build -f deploy/docker/serve.Dockerfile -t lightbox-serve --target=mounted .
#   docker run --rm -p 127.0.0.1:8500:8500 -p 127.0.0.1:8501:8501 -v "$PWD/run/export:/models/classifier:ro" lightbox-serve
#
# A model that is baked in and the server that was tested with it are one thing
# with one digest; a mounted one changes without a build. To pin the base by
# digest see train.Dockerfile.
ARG SERVING_IMAGE=tensorflow/serving:2.20.0

# --build-context=export=DIR takes the place of this empty stage.
FROM scratch AS export

FROM ${SERVING_IMAGE} AS mounted
COPY deploy/serving/models.config deploy/serving/monitoring.config deploy/serving/batching.config /config/
USER 10001:10001
EXPOSE 8500 8501
ENTRYPOINT ["tensorflow_model_server", \
    "--port=8500", \
    "--rest_api_port=8501", \
    "--rest_api_timeout_in_ms=30000", \
    "--model_config_file=/config/models.config", \
    "--monitoring_config_file=/config/monitoring.config"]
# More flags, or none: on a GPU --enable_batching and
# --batching_parameters_file=/config/batching.config.
CMD ["--enable_grpc_healthcheck_service=true"]
# The metadata of a model can be had once a version of it is loaded. The image
# has no curl; bash can talk TCP.
HEALTHCHECK --start-period=120s --interval=15s --timeout=5s CMD ["bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/8501 && printf 'GET /v1/models/classifier/metadata HTTP/1.0\\r\\n\\r\\n' >&3 && head -n 1 <&3 | grep -q ' 200 '"]

FROM mounted AS baked
COPY --from=export / /models/classifier/
