# Trains on a Cloud TPU VM; deploy.tpu.run starts it there.
#
#   docker build -f deploy/docker/train-tpu.Dockerfile -t lightbox-train:tpu .
#
# TensorFlow for TPUs ends at 2.20 on PyPI (tensorflow-tpu). To pin the base by
# digest see train.Dockerfile.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm
FROM ${PYTHON_IMAGE}

# The chips of this very machine, through libtpu's PJRT interface.
ENV HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TPU_NAME=local \
    PJRT_DEVICE=TPU \
    NEXT_PLUGGABLE_DEVICE_USE_C_API=true \
    TF_PLUGGABLE_DEVICE_LIBRARY_PATH=/usr/local/lib/python3.11/site-packages/libtpu/libtpu.so

WORKDIR /app

# As in train.Dockerfile, without `pip check`: others ask for the package
# tensorflow, and find its modules in tensorflow-tpu.
COPY deploy/docker/requirements-build.txt deploy/docker/requirements-tpu.txt ./
RUN pip install --no-cache-dir --no-deps --require-hashes --root-user-action=ignore \
        -r requirements-build.txt \
    && pip install --no-cache-dir --no-deps --require-hashes --root-user-action=ignore \
        --no-build-isolation -r requirements-tpu.txt

COPY trainer trainer
COPY tuning tuning
COPY serving serving
COPY deploy deploy

USER 10001:10001
ENTRYPOINT ["python", "-m"]
CMD ["trainer.task", "--helpshort"]
