import itertools
import os

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from tests.export.examples import IMAGES
from tests.samples import IMAGE_SIZE
from trainer.data import preprocessing
from trainer.export import signature, warmup


def test_every_signature_is_warmed_at_every_batch_size(exported, signatures):
    path = os.path.join(exported, signature.WARMUP_FILE)
    seen = []
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        request = log.predict_log.request
        (tensor,) = request.inputs.values()
        values = tf.make_ndarray(tensor)
        name = request.model_spec.signature_name
        outputs = signatures[name](values)
        assert outputs["valid"].all()
        assert all(len(output) == len(values) for output in outputs.values())
        seen.append((name, len(values)))
    needed = itertools.product(signature.SIGNATURES, warmup.BATCH_SIZES)
    assert sorted(seen) == sorted(needed)
    assert len(seen) <= warmup.MAX_RECORDS


def test_shrunken_image_is_the_image_in_few_bytes():
    small = warmup.shrink_image(IMAGES[0], IMAGE_SIZE, 1)
    decoded = preprocessing.decode_image(small, 1).numpy().astype(int)
    expected = preprocessing.prepare_image(IMAGES[0], IMAGE_SIZE, 1).numpy()
    assert decoded.shape == expected.shape
    assert np.abs(decoded - expected).mean() < 5
