"""Names of the serving contract: signatures, inputs and outputs.

Imported by the exporter and by the clients, so it must not import
TensorFlow: a client that speaks REST runs without it.
"""

# Signatures.
SERVING_DEFAULT = "serving_default"
PIXELS = "pixels"

# Inputs.
IMAGE_BYTES = "image_bytes"  # string [batch], one JPEG or PNG each
PIXELS_INPUT = "pixels"  # float32 [batch, height, width, channels], [0, 255]

# Outputs.
PROBABILITIES = "probabilities"  # float32 [batch, classes], calibrated
LABEL = "label"  # string [batch], name of the most probable class
LABEL_INDEX = "label_index"  # int32 [batch], its index
SCORE = "score"  # float32 [batch]: P(positive class), or P(label)
DECISION = "decision"  # bool [batch], binary only: score >= operating point
VALID = "valid"  # bool [batch]: the image could be decoded

# Files.
MODEL_NAME = "brain_mri"
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
DATASET_ASSET = "dataset.json"
MANIFEST_FILE = "manifest.json"  # facts, and the sha256 of every file
