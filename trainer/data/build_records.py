r"""Turns a folder of images into TFRecord shards, `dataset.json` and an audit.

    python -m trainer.data.build_records --input_dir=scans --output_dir=records

Images of one patient, and copies of an image, never get into two splits. What
is found on the way is said in the end, and kept in OUTPUT_DIR/audit.json.
"""

# Workers import this module, so nothing slow is imported here, and TensorFlow
# not at all.

import dataclasses
import json
import os
import sys

from absl import app, flags

from trainer import startup
from trainer.data import records
from trainer.data.build import (
    audit,
    dataset,
    manifest,
    output,
    positive_class,
)
from trainer.data.build.options import LOCAL, BuildOptions
from trainer.storage import paths, staging

_DEFINE = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    float | None: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
}


def _define_flags() -> None:
    """Defines a flag for every field of `BuildOptions`."""
    for field in dataclasses.fields(BuildOptions):
        define, limits = _DEFINE.get(field.type), field.metadata["limits"]
        if "enum_values" in limits:
            define = flags.DEFINE_enum
        elif field.name == "columns":
            define = flags.DEFINE_list
        elif field.name == "beam_options":
            define = flags.DEFINE_multi_string
        define(field.name, field.default, help=field.metadata["help"], **limits)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    startup.set_up_logging(os.path.dirname(os.path.dirname(__file__)))
    fields = dataclasses.fields(BuildOptions)
    settings = {field.name: flags.FLAGS[field.name].value for field in fields}
    settings["columns"] = [c.strip().lower() for c in settings["columns"]]
    with staging.Workspace() as place:
        try:
            options = BuildOptions(**settings)
            if options.runner == LOCAL:
                options = _bring_here(options, place)
            info = dataset.build(options)
        except (ValueError, OSError) as error:
            sys.exit(f"build_records: {error}")
        print(records.describe(info))
        if info.positive_class:
            print(
                positive_class.describe(
                    info.class_names,
                    info.positive_class,
                    bool(options.positive_class),
                )
            )
        audit_path = paths.join(options.output_dir, output.AUDIT_FILE)
        for line in audit.summarize(json.loads(paths.read_bytes(audit_path))):
            print(f"- {line}")
        shown = paths.as_given(audit_path)
        given = settings["output_dir"]
        print(f"Written to {given}; {shown} has the details.")


def _bring_here(options: BuildOptions, place: staging.Workspace):
    """Options whose paths in Cloud Storage are local copies."""
    output.check_output_dir(options.output_dir, "")
    return dataclasses.replace(
        options,
        output_dir=place.output(
            options.output_dir, records.DATASET_FILE, output.EARLIER_FILES
        ),
        input_dir=place.stage(options.input_dir, "input_dir"),
        manifest=_stage_manifest(place, options.manifest),
        previous=place.stage(
            options.previous, "previous", output.EARLIER_FILES.__contains__
        ),
    )


def _stage_manifest(place: staging.Workspace, path: str) -> str:
    """A local copy of a manifest and of the images that it names."""
    if not paths.is_remote(path):
        return path
    listed = manifest.read_paths(place.stage_file(path, "manifest"))
    listed += [written.replace("\\", "/") for written in listed]
    folder, name = os.path.split(path)
    wanted = {name, *map(os.path.normpath, listed)}
    return os.path.join(
        place.stage(folder, "manifest", wanted.__contains__), name
    )


if __name__ == "__main__":
    _define_flags()
    startup.run(
        main,
        {
            "output_dir": "Images and data set",
            "stored_size": "Stored images",
            "validation_fraction": "Splits",
            "positive_class": "Labels and trouble",
            "window_center": "Reading scans",
            "num_workers": "Machines",
        },
    )
