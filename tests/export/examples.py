"""What the exports of the tests are made of, and answer."""

import numpy as np

from tests.samples import IMAGE_SIZE, encode, make_pixels
from trainer.data import preprocessing
from trainer.export import serving_module
from trainer.model import out_of_distribution

CLASS_NAMES = ("no_tumor", "tumor")
POSITIVE = 0  # the logit is that of the other one
TEMPERATURE = 1.7
OPERATING_POINT = 0.6
SET_THRESHOLDS = (0.3, 0.45)
STUDY = ("noisy_or", 0.8)
IMAGES = [encode(make_pixels(i, i % 2)) for i in range(4)]


def prepare(images):
    """Pixels as the model takes them."""
    return np.stack(
        [preprocessing.prepare_image(i, IMAGE_SIZE, 1) for i in images]
    )


def make_module(model, detector, **settings):
    """What is exported of a model with two classes."""
    return serving_module.ServingModule(
        [model],
        class_names=CLASS_NAMES,
        positive_index=POSITIVE,
        temperature=TEMPERATURE,
        operating_point=OPERATING_POINT,
        detector=detector,
        set_thresholds=SET_THRESHOLDS,
        study=STUDY,
        **settings,
    )


def make_detector(model):
    """Knows twelve images; its threshold is set on eight others."""
    train, validation = (
        [encode(make_pixels(i, i % 2)) for i in chosen]
        for chosen in (range(100, 112), range(200, 208))
    )
    return out_of_distribution.fit(
        out_of_distribution.describe_images(model, train),
        out_of_distribution.describe_images(model, validation),
        out_of_distribution.stage_sizes(model),
    )
