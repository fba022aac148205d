#!/usr/bin/env bash
# The whole way, on generated images: sample data -> records -> train ->
# evaluate -> export -> serve -> ask over gRPC and REST.
#
#   tests/demo.sh OUTPUT_DIR
#
# Smaller or larger through NUM_IMAGES, IMAGE_SIZE and EPOCHS; PYTHON names the
# interpreter.
set -euo pipefail

OUTPUT=${1:?"usage: tests/demo.sh OUTPUT_DIR"}
PYTHON=${PYTHON:-python}
NUM_IMAGES=${NUM_IMAGES:-2000}
IMAGE_SIZE=${IMAGE_SIZE:-64}
EPOCHS=${EPOCHS:-10}

step() { printf '\n== %s\n' "$*"; }
run() { printf '$ python %s\n' "$*" >&2; "$PYTHON" "$@"; }

if [ -e "$OUTPUT" ]; then
  echo "demo: $OUTPUT exists; remove it, or name another directory." >&2
  exit 1
fi
mkdir -p "$OUTPUT"

step "Draw head phantoms, with and without a lesion"
run -m trainer.data.sample_data --output_dir="$OUTPUT/scans" \
  --num_images="$NUM_IMAGES"

step "Turn the folder into records, patients kept together"
run -m trainer.data.build_records --input_dir="$OUTPUT/scans" \
  --output_dir="$OUTPUT/records" --patient_regex='(patient_\d+)'

step "Train from scratch, evaluate, export"
run -m trainer.task --data_dir="$OUTPUT/records" --job_dir="$OUTPUT/run" \
  --weights=none --image_size="$IMAGE_SIZE" --fine_tune_epochs="$EPOCHS"

step "Serve"
echo '$ python -m serving.local_server --model_base_path='"$OUTPUT/run/export --model_name=classifier --port=0 --rest_api_port=0"
: >"$OUTPUT/server.log"
"$PYTHON" -m serving.local_server --model_base_path="$OUTPUT/run/export" \
  --model_name=classifier --port=0 --rest_api_port=0 \
  >"$OUTPUT/server.log" 2>&1 &
SERVER=$!
trap 'kill "$SERVER" 2>/dev/null || true; wait "$SERVER" 2>/dev/null || true' EXIT
for _ in $(seq 600); do
  ADDRESSES=$(grep -oE '(grpc|http)://[0-9.]+:[0-9]+' "$OUTPUT/server.log" || true)
  [ -n "$ADDRESSES" ] && break
  kill -0 "$SERVER" 2>/dev/null || { cat "$OUTPUT/server.log" >&2; exit 1; }
  sleep 0.5
done
[ -n "$ADDRESSES" ] || { echo "demo: no server after 5 minutes, see $OUTPUT/server.log" >&2; exit 1; }
GRPC=$(grep -m1 grpc <<<"$ADDRESSES")
REST=$(grep -m1 http <<<"$ADDRESSES")
echo "ready at $GRPC and $REST"

step "Draw twelve more patients, whom the model has not seen; ask about one image of each"
run -m trainer.data.sample_data --output_dir="$OUTPUT/new_scans" \
  --num_images=48 --seed=1
find "$OUTPUT/new_scans" -name '*.png' ! -name '*_slice_00.png' -delete

step "Ask over gRPC"
run -m serving.predict --target="$GRPC" --model_name=classifier "$OUTPUT/new_scans"

step "Ask the same over REST, for a spreadsheet"
run -m serving.predict --target="$REST" --model_name=classifier --csv \
  "$OUTPUT/new_scans" | tee "$OUTPUT/answers.csv"

step "Done"
"$PYTHON" - "$OUTPUT/answers.csv" <<'END'
import csv, pathlib, sys

with open(sys.argv[1], newline="") as file:
    rows = list(csv.DictReader(file))
right = [
    row for row in rows
    if pathlib.Path(row["file"]).parent.name == row["decision_label"]
]
print(f"{len(right)} of {len(rows)} new images were called right ({sys.argv[1]}).")
END
echo "How good the model is, and where it errs: open $OUTPUT/run/evaluation/report.html"
