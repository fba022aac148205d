"""The signatures of the serving contract around frozen weights.

The backbone is frozen to constants once, and all signatures share it: a copy
for each would multiply the file.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

from trainer.data import preprocessing
from trainer.data.images.image import Window
from trainer.export import runtime_files, signature
from trainer.model import folding, out_of_distribution, saliency, views

# Images in the network at a time. A larger batch goes through it in parts:
# a thousand at once would take gigabytes.
MAX_CHUNK = 32


def _freeze(function, shape: list[int | None]):
    """A function of one float32 tensor, its variables made constants."""
    return convert_to_constants.convert_variables_to_constants_v2(
        tf.function(function, autograph=False).get_concrete_function(
            tf.TensorSpec(shape, tf.float32)
        )
    )


class ServingModule(tf.Module):
    """What is saved: frozen functions, and the signatures made of them."""

    def __init__(
        self,
        members: Sequence[keras.Model],
        *,
        class_names: tuple[str, ...],
        positive_index: int | None,
        temperature: float,
        operating_point: float | None,
        detector: out_of_distribution.Detector | None,
        window: Window | None = None,
        num_views: int = 1,
        set_thresholds: Sequence[float] | None = None,
        study: tuple[str, float] | None = None,
    ):
        """Wraps a model, or the mean of several.

        Args:
            members: float32, pixels in [0, 255] -> logits each. The first is
                explained and compared with the training set.
            class_names: in the order of the labels.
            positive_index: label of the positive class, None for more than
                two classes.
            temperature: logits are divided by it before the softmax.
            operating_point: `decision` is `score >= operating_point`; None
                for more than two classes.
            detector: of images unlike the training set; with None no answer
                tells of them.
            window: that the training set's values of more than 8 bits were
                seen through; None if each image has its own.
            num_views: of an image, whose logits are averaged; the first is
                explained and compared with the training set.
            set_thresholds: per class, the probability from which it is in a
                prediction set; with None every class is in it.
            study: for two classes the rule and the threshold of patients; None
                if these were not judged.
        """
        super().__init__(name="lightbox")
        model, *others = map(folding.fold, members)
        _, self._image_size, _, self._channels = model.input.shape
        feature_map = model.get_layer(saliency.FEATURE_MAP).output
        describe = out_of_distribution.descriptor_model(model)
        backbone = keras.Model(model.input, [feature_map, describe.output])
        head = saliency.head_model(model)

        def judge(pixels):
            every = [views.make_view(pixels, i) for i in range(num_views)]
            every = tf.concat(every, 0)
            features, descriptors = backbone(every, training=False)
            logits = tf.add_n(
                [head(features, training=False)]
                + [other(every, training=False) for other in others]
            )
            logits = views.mean_over_views(logits / len(members), num_views)
            count = tf.shape(pixels)[0]
            return logits, features[:count], descriptors[:count]

        # Pixels -> logits, feature map, descriptor; feature map -> heat.
        # Gradients are taken before freezing, which forgets them.
        self._judge = _freeze(judge, [None, *model.input.shape[1:]])
        self._heat = _freeze(
            lambda features: saliency.grad_cam(head, features)[0],
            [None, *feature_map.shape[1:]],
        )
        self._unlike = detector and _freeze(
            detector.score, [None, describe.output.shape[1]]
        )
        self._class_names = tf.constant(class_names)
        self._positive_index = positive_index
        self._temperature = temperature
        self._operating_point = operating_point
        self._window = window
        self._set_thresholds = tf.constant(
            set_thresholds or [0.0] * len(class_names), tf.float32
        )
        self._study = study

    def _answer(
        self, logits: tf.Tensor, descriptor: tf.Tensor, valid: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """The outputs that all signatures share."""
        logits = logits / self._temperature
        if logits.shape[-1] == 1:
            logits = tf.concat([tf.zeros_like(logits), logits], axis=-1)
        # Zeros, not NaN, for what could not be read: TF Serving writes NaN as
        # a bare token that JSON parsers refuse.
        probabilities = tf.where(valid[:, tf.newaxis], tf.nn.softmax(logits), 0)
        # Of the logits: probabilities near a half can round to a tie.
        label_index = tf.argmax(logits, -1, output_type=tf.int32)
        if self._positive_index is None:
            score = tf.reduce_max(probabilities, axis=-1)
            decided = label_index
        else:
            score = probabilities[:, self._positive_index]
            decision = valid & (score >= self._operating_point)
            decided = tf.where(
                decision, self._positive_index, 1 - self._positive_index
            )
        names = self._class_names
        possible = (probabilities >= self._set_thresholds) | (
            decided[:, tf.newaxis] == tf.range(len(names))
        )
        outputs = {
            signature.PROBABILITIES: probabilities,
            signature.LABEL: tf.where(valid, tf.gather(names, label_index), ""),
            signature.LABEL_INDEX: tf.where(valid, label_index, -1),
            signature.SCORE: score,
            signature.VALID: valid,
            signature.CLASS_NAMES: tf.where(valid[:, tf.newaxis], names, ""),
            signature.PREDICTION_SET: possible & valid[:, tf.newaxis],
        }
        if self._unlike:
            unlike = tf.where(valid, self._unlike(descriptor)[0], 0)
            outputs[signature.OUT_OF_DISTRIBUTION] = unlike
            outputs[signature.IS_OUT_OF_DISTRIBUTION] = unlike > 1
        if self._positive_index is not None:
            outputs |= {
                signature.DECISION: decision,
                signature.DECISION_LABEL: tf.where(
                    valid, tf.gather(names, decided), ""
                ),
                signature.THRESHOLD: tf.where(valid, self._operating_point, 0),
            }
        if self._study is not None:
            rule, threshold = self._study
            outputs |= {
                signature.STUDY_RULE: tf.where(valid, rule, ""),
                signature.STUDY_THRESHOLD: tf.where(valid, threshold, 0),
            }
        return outputs

    def _serve_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels, valid = preprocessing.prepare_batch(
            image_bytes, self._image_size, self._channels, self._window
        )
        logits, _, descriptor = self._judge(pixels)
        return self._answer(logits, descriptor, valid)

    def _serve_pixels(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        valid = tf.reduce_all(tf.math.is_finite(pixels), axis=[1, 2, 3])
        finite = tf.where(
            valid[:, tf.newaxis, tf.newaxis, tf.newaxis], pixels, 0.0
        )
        logits, _, descriptor = self._judge(finite)
        return self._answer(logits, descriptor, valid)

    def _explain(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels, valid = preprocessing.prepare_batch(
            image_bytes, self._image_size, self._channels, self._window
        )
        logits, feature_map, descriptor = self._judge(pixels)
        heat = self._heat(feature_map)[0]

        def draw(row):
            encoded, heat, is_valid = row
            plain = preprocessing.make_plain(encoded, self._window)
            return tf.cond(
                is_valid,
                lambda: preprocessing.isolate(
                    saliency.overlay_png, (plain, heat), ""
                ),
                lambda: "",
            )

        overlays = tf.map_fn(
            draw,
            (image_bytes, heat, valid),
            fn_output_signature=tf.TensorSpec([], tf.string),
        )
        return {
            **self._answer(logits, descriptor, valid),
            signature.OVERLAY: overlays,
        }

    @property
    def _pixels_spec(self) -> tf.TensorSpec:
        shape = [None, self._image_size, self._image_size, self._channels]
        return tf.TensorSpec(shape, tf.float32, signature.PIXELS_INPUT)

    def convert(self, name: str) -> bytes:
        """The signature of pixels as a file of another format.

        It takes batches whole; see `runtime_files`.
        """
        names = [name.decode() for name in self._class_names.numpy()]
        return runtime_files.convert(
            name, self._serve_pixels, self._pixels_spec, names
        )

    def signatures(self) -> dict:
        """Concrete functions by the name of their signature."""
        image_bytes = tf.TensorSpec([None], tf.string, signature.IMAGE_BYTES)
        specs = {
            signature.SERVING_DEFAULT: (self._serve_bytes, image_bytes),
            signature.PIXELS: (self._serve_pixels, self._pixels_spec),
            signature.EXPLAIN: (self._explain, image_bytes),
        }
        return {
            name: _chunked(function).get_concrete_function(spec)
            for name, (function, spec) in specs.items()
        }


def _chunked(function):
    """`function` applied to a batch of any size in chunks of equal size.

    An empty batch becomes one blank row, which is cut off again: oneDNN's
    fused convolution fails on none.
    """

    def call(inputs):
        num_rows = tf.shape(inputs)[0]
        num_chunks = tf.maximum(1, -(-num_rows // MAX_CHUNK))
        size = tf.maximum(1, -(-num_rows // num_chunks))
        missing = num_chunks * size - num_rows
        blank = tf.zeros([missing, *inputs.shape[1:]], inputs.dtype)
        shape = [num_chunks, size, *inputs.shape[1:]]
        chunks = tf.reshape(tf.concat([inputs, blank], 0), shape)
        spec = tf.TensorSpec([None, *inputs.shape[1:]], inputs.dtype)
        one = tf.function(function, autograph=False).get_concrete_function(spec)
        outputs = tf.map_fn(
            one,
            chunks,
            fn_output_signature={
                name: tf.TensorSpec(output.shape, output.dtype)
                for name, output in one.structured_outputs.items()
            },
            parallel_iterations=1,
        )
        return {
            name: tf.reshape(
                output,
                tf.concat([[num_chunks * size], tf.shape(output)[2:]], 0),
            )[:num_rows]
            for name, output in outputs.items()
        }

    return tf.function(call, autograph=False)
