"""Names of the serving contract: signatures, inputs, outputs and files.

Imported by the exporter and by the clients, so it must not import
TensorFlow: a client that speaks REST runs without it.
"""

# Signatures.
SERVING_DEFAULT = "serving_default"
PIXELS = "pixels"
EXPLAIN = "explain"
SIGNATURES = (SERVING_DEFAULT, PIXELS, EXPLAIN)

# Inputs.
IMAGE_BYTES = "image_bytes"  # string [batch], one JPEG or PNG each
PIXELS_INPUT = "pixels"  # float32 [batch, height, width, channels], [0, 255]

# Outputs of all signatures.
PROBABILITIES = "probabilities"  # float32 [batch, classes], calibrated
LABEL = "label"  # string [batch], name of the most probable class
LABEL_INDEX = "label_index"  # int32 [batch], its index
SCORE = "score"  # float32 [batch]: P(positive class), or P(label)
DECISION = "decision"  # bool [batch], binary only: score >= threshold
# string [batch], binary only: the name of the class that was decided on, and
# float32 [batch], binary only: the operating point that it was decided by.
DECISION_LABEL = "decision_label"
THRESHOLD = "threshold"
# string [batch, classes]: their names, in the order of the probabilities.
CLASS_NAMES = "class_names"
# bool [batch, classes]: classes that are left possible; one of them is the
# class decided on. Where it holds several, the answer is uncertain.
PREDICTION_SET = "prediction_set"
# string [batch] and float32 [batch], binary only, if it was evaluated per
# patient: how scores of a patient's images become one, and its threshold.
STUDY_RULE = "study_rule"
STUDY_THRESHOLD = "study_threshold"
VALID = "valid"  # bool [batch]: the image could be decoded
# float32 [batch]: how unlike the training set; 1 is the threshold, which 95 %
# of the validation images do not pass.
OUT_OF_DISTRIBUTION = "out_of_distribution"
# bool [batch]: whether it is above 1.
IS_OUT_OF_DISTRIBUTION = "is_out_of_distribution"
# EXPLAIN only. string [batch]: PNG, Grad-CAM of the label laid over the image;
# empty where it is not valid. REST encodes what is called `_bytes` in base64.
OVERLAY = "overlay_bytes"

# Files of a version.
MODEL_NAME = "classifier"
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
# Of other formats in --export_formats. TF Serving does not look there.
RUNTIME_FILES = {
    "onnx": "assets.extra/pixels.onnx",
    "litert": "assets.extra/pixels.tflite",
}
DATASET_ASSET = "dataset.json"
MANIFEST_FILE = "manifest.json"  # facts, and the sha256 of every file
BLESSING_FILE = "blessing.json"  # see `trainer.export.blessing`
