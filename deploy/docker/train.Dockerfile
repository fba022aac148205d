# Builds records, trains, sweeps and evaluates, on CPUs or on NVIDIA GPUs:
#
#   docker build -f deploy/docker/train.Dockerfile -t lightbox-train:cpu .
#   docker build -f deploy/docker/train.Dockerfile -t lightbox-train:gpu --build-arg=DEVICE=gpu .
#   docker run --rm --init --user="$(id -u):$(id -g)" -v "$PWD:/data" \
#     lightbox-train:cpu trainer.task --data_dir=/data/records --job_dir=/data/run
#
# A tag may be moved to other bits, a digest may not. To pin it:
#   docker buildx imagetools inspect python:3.11.14-slim-bookworm     # its Digest:
#   docker build --build-arg=PYTHON_IMAGE=python:3.11.14-slim-bookworm@sha256:… …
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm
FROM ${PYTHON_IMAGE}

# cpu or gpu. CUDA comes with the packages, the driver from the host.
ARG DEVICE=cpu

# Caches go where anybody may write, even when all else is mounted read-only.
ENV HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

WORKDIR /app

# Gigabytes that change with pyproject.toml alone come first, the code last. Every
# package has one version, and the sha256 of its file is checked. One of them
# has no wheel: it is built with what requirements-build.txt names.
COPY deploy/docker/requirements-build.txt deploy/docker/requirements-${DEVICE}.txt ./
RUN pip install --no-cache-dir --no-deps --require-hashes --root-user-action=ignore \
        -r requirements-build.txt \
    && pip install --no-cache-dir --no-deps --require-hashes --root-user-action=ignore \
        --no-build-isolation -r "requirements-${DEVICE}.txt" \
    && pip check

COPY trainer trainer
COPY tuning tuning
COPY serving serving
COPY deploy deploy

# Nobody in particular; Kubernetes refuses a name where it wants a number.
USER 10001:10001
ENTRYPOINT ["python", "-m"]
CMD ["trainer.task", "--helpshort"]
