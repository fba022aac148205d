"""What the exports of the tests are made of, and answer."""

from tests.samples import encode, make_pixels
from trainer.model import out_of_distribution

CLASS_NAMES = ("no_tumor", "tumor")
TEMPERATURE = 1.7
OPERATING_POINT = 0.4
IMAGES = [encode(make_pixels(i, i % 2)) for i in range(4)]


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
