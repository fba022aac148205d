import itertools
import os

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

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


def test_images_are_of_nobody_and_take_both_decoders():
    for channels in (1, 3):
        images = warmup.make_images(97, channels)
        kinds = [image[:4] for image in images]
        assert kinds == [b"\xff\xd8\xff\xe0", b"\x89PNG"]
        for image in images:
            decoded = tf.io.decode_image(image)
            assert decoded.shape == (97, 97, channels)
            assert np.std(decoded) > 20
        # The same in every export.
        assert images == warmup.make_images(97, channels)


def test_file_is_small():
    assert len(warmup.make_warmup_file("classifier", 224, 3)) < 1_000_000
