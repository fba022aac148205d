"""EfficientNetB0 and a head, one flat Keras model that returns logits."""

import os
import random
import warnings
from collections.abc import Sequence

import keras

NAME = "medical_image_classifier"
FEATURES = "features"  # name of the pooling layer that ends the backbone
LOGITS = "logits"
NUM_FEATURES = 1280
# Keras' 0.99 remembers 100 steps and more: a small set's statistics would stay
# near their initial values for epochs.
BATCH_NORM_MOMENTUM = 0.9
# Coarse to fine: the layers of EfficientNetB0 from input to output.
BLOCKS = (
    "stem",
    "block1",
    "block2",
    "block3",
    "block4",
    "block5",
    "block6",
    "block7",
    "top",
)


def num_logits(num_classes: int) -> int:
    """One logit and a sigmoid for two classes, else a softmax over all."""
    return 1 if num_classes == 2 else num_classes


def build_head(
    num_classes: int,
    hidden_units: tuple[int, ...],
    dropout: float,
    dropout_layer: type[keras.layers.Layer] = keras.layers.Dropout,
    activation: str = "relu",
    batch_norm: bool = False,
) -> keras.Sequential:
    """The head on pooled features: Dropout, Dense layers, logits.

    Args:
        num_classes: of the data set.
        hidden_units: widths of the hidden Dense layers, possibly none.
        dropout: rate before every Dense layer.
        dropout_layer: class of the dropout layers.
        activation: of the hidden layers, a name that Keras knows.
        batch_norm: normalize before each activation.

    Returns:
        Model: `[batch, NUM_FEATURES]` -> float32 logits `[batch, K]`, with
        K = 1 for two classes.
    """
    layers = [keras.Input([NUM_FEATURES], name="head_input")]
    for i, units in enumerate(hidden_units):
        layers.append(dropout_layer(dropout, name=f"head_dropout_{i}"))
        layers.append(keras.layers.Dense(units, name=f"head_dense_{i}"))
        if batch_norm:
            layers.append(
                keras.layers.BatchNormalization(
                    momentum=BATCH_NORM_MOMENTUM,
                    synchronized=True,
                    name=f"head_batch_norm_{i}",
                )
            )
        layers.append(
            keras.layers.Activation(activation, name=f"head_activation_{i}")
        )
    layers.append(dropout_layer(dropout, name="head_dropout"))
    # Logits, and so the loss, stay float32 under mixed precision.
    layers.append(
        keras.layers.Dense(
            num_logits(num_classes), dtype="float32", name=LOGITS
        )
    )
    return keras.Sequential(layers, name="head")


def build_classifier(
    image_size: int,
    channels: int,
    head: keras.Sequential,
    weights: str = "none",
    dropout_layer: type[keras.layers.Layer] = keras.layers.Dropout,
    seed: int | None = None,
) -> keras.Model:
    """EfficientNetB0 with `head` on top, as one flat model.

    EfficientNetB0 normalizes inside, so the input is in [0, 255]. A grey image
    becomes three equal channels here, on the device.

    Args:
        image_size: height and width of the input, in pixels.
        channels: 1 or 3.
        head: from `build_head`; the model shares its layers and weights.
        weights: "imagenet", "none", or the path of a `.weights.h5` file of
            `keras.applications.EfficientNetB0(include_top=False)`.
        dropout_layer: class of the backbone's drop-connect layers.
        seed: of weights "none"; without one they are drawn from Python's
            global generator, as uploads in other threads do.

    Returns:
        Model: float32 `[batch, image_size, image_size, channels]` in [0, 255]
        -> float32 logits `[batch, K]`.

    Raises:
        FileNotFoundError: if the weights file does not exist.
        ValueError: if it is not of this backbone, or ImageNet weights cannot
            be downloaded.
    """
    inputs = keras.Input([image_size, image_size, channels], name="pixels")
    x = inputs
    if channels == 1:
        x = keras.layers.Concatenate(name="grey_to_rgb")([x, x, x])
    source = _load_backbone(x, weights)

    def clone_layer(layer):
        config = layer.get_config()
        if isinstance(layer, keras.layers.Dropout):
            return dropout_layer.from_config(config)
        if isinstance(layer, keras.layers.BatchNormalization):
            # Statistics of the global batch: they, and so the weights, do not
            # depend on the number of replicas. No effect while frozen.
            config["synchronized"] = True
            if weights == "none":
                config["momentum"] = BATCH_NORM_MOMENTUM
        return layer.__class__.from_config(config)

    # The backbone was built onto `x`, so the clone is flat: a nested backbone
    # breaks Grad-CAM.
    backbone = keras.models.clone_model(source, clone_function=clone_layer)
    backbone.set_weights(source.get_weights())
    if weights == "none" and seed is not None:
        _draw_kernels(backbone, seed)
    finalize_normalization(backbone)
    x = keras.layers.GlobalAveragePooling2D(name=FEATURES)(backbone.outputs[0])
    for layer in head.layers:
        x = layer(x)
    return keras.Model(backbone.inputs[0], x, name=NAME)


def _load_backbone(x: keras.KerasTensor, weights: str) -> keras.Model:
    """EfficientNetB0 without its top on three channels, with weights."""
    if weights == "imagenet":
        try:
            return keras.applications.EfficientNetB0(
                include_top=False, weights="imagenet", input_tensor=x
            )
        except Exception as error:
            # `keras.utils.get_file` raises a bare Exception when it cannot
            # download, and nothing more special.
            if "URL fetch failure" not in str(error):
                raise
            raise ValueError(
                "--weights=imagenet could not be downloaded: connect to the "
                "network, or give a file with --weights=FILE, or train from "
                "scratch with --weights=none."
            ) from error
    backbone = keras.applications.EfficientNetB0(
        include_top=False, weights=None, input_tensor=x
    )
    if weights == "none":
        return backbone
    if not os.path.isfile(weights):
        raise FileNotFoundError(
            f"--weights={weights} is not a file: give the path of a "
            ".weights.h5 file of EfficientNetB0 without its top, or imagenet, "
            "or none."
        )
    try:
        with warnings.catch_warnings():
            # Keras only warns of layers that it finds no weights for.
            warnings.filterwarnings("error", message="Skipping")
            backbone.load_weights(weights)
    except (ValueError, OSError, KeyError, UserWarning) as error:
        raise ValueError(
            f"--weights={weights} does not hold the weights of "
            "keras.applications.EfficientNetB0(include_top=False): give a "
            ".weights.h5 file saved from that model."
        ) from error
    return backbone


def _draw_kernels(model: keras.Model, seed: int) -> None:
    """Draws all kernels anew, by the initializers of their layers."""
    draw_seed = random.Random(seed)
    for layer in model.layers:
        initializer = getattr(layer, "depthwise_initializer", None) or getattr(
            layer, "kernel_initializer", None
        )
        if initializer is not None:
            config = initializer.get_config()
            config["seed"] = draw_seed.randint(1, 10**9)
            draw = initializer.from_config(config)
            layer.kernel.assign(draw(layer.kernel.shape))


def finalize_normalization(model: keras.Model) -> None:
    """Lets a model normalize its input by the weights that it was given.

    Keras' Normalization computes with tensors made of its weights, which
    `set_weights` leaves as they were: pretrained layers would see pixels that
    are not normalized, until the model is saved and loaded.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def features_model(model: keras.Model) -> keras.Model:
    """The backbone of a classifier: pixels -> pooled features."""
    return keras.Model(model.input, model.get_layer(FEATURES).output)


def set_trainable(
    model: keras.Model, num_blocks: int, train_batch_norm: bool
) -> None:
    """Unfreezes the head and the top blocks of the backbone.

    Args:
        model: from `build_classifier`.
        num_blocks: how many of `BLOCKS` to train, from the top; 0 trains the
            head alone.
        train_batch_norm: False keeps the statistics and scales of pretrained
            weights: a small set's batches would only blur them.
    """
    unfrozen = BLOCKS[len(BLOCKS) - num_blocks :]
    for layer in model.layers:
        is_head = layer.name.startswith(("head_", LOGITS))
        layer.trainable = is_head or layer.name.startswith(unfrozen)
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = layer.trainable and train_batch_norm


def mean_model(members: Sequence[keras.Model]) -> keras.Model:
    """One model whose logits are the mean of several models' logits."""
    if len(members) == 1:
        return members[0]
    inputs = keras.Input(members[0].input.shape[1:], name="pixels")
    outputs = []
    for number, member in enumerate(members, start=1):
        member.name = f"member_{number}"
        outputs.append(member(inputs))
    mean = keras.layers.Average(name=LOGITS)(outputs)
    return keras.Model(inputs, mean, name=NAME)


def copy_for_inference(
    model: keras.Model,
    image_size: int,
    channels: int,
    num_classes: int,
    hidden_units: tuple[int, ...],
    dropout: float,
    weights: str,
    activation: str = "relu",
    batch_norm: bool = False,
) -> keras.Model:
    """The same model in float32 and of Keras' own layers only.

    Training under mixed precision leaves float32 variables in a graph that
    computes in 16 bits, and its dropout layers need this package to load. The
    copy has neither trait, so that anyone can load the saved file.

    Args:
        model: a trained classifier.
        image_size: height and width of the input, in pixels.
        channels: 1 or 3.
        num_classes: of the data set.
        hidden_units: widths of the head's hidden layers.
        dropout: rate of the head.
        weights: what the classifier was built with; the graph for ImageNet
            weights has one layer more.
        activation: of the head's hidden layers.
        batch_norm: whether they are normalized.

    Returns:
        Model with the same outputs at inference.
    """
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        head = build_head(
            num_classes,
            hidden_units,
            dropout,
            activation=activation,
            batch_norm=batch_norm,
        )
        graph = "imagenet" if weights == "imagenet" else "none"
        copy = build_classifier(image_size, channels, head, graph)
    finally:
        keras.config.set_dtype_policy(policy)
    copy.set_weights(model.get_weights())
    finalize_normalization(copy)
    return copy
