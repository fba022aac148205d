"""How a data set is built: every setting stated, documented and checked once.

`build_records` makes a flag of every field, with its default and its help.
"""

import dataclasses

from trainer.data.build import leaks, scan, splits, training_images

LOCAL = "local"


def _field(default, help_text: str, **limits):
    """A setting; `limits` are those of its flag."""
    return dataclasses.field(
        default=default, metadata={"help": help_text, "limits": limits}
    )


@dataclasses.dataclass(frozen=True)
class BuildOptions:
    """What a build does; see the help of each field (`--help`).

    Raises:
        ValueError: if an option is not valid, or does not go with others.
    """

    output_dir: str = _field(None, "Where the data set goes.", required=True)
    input_dir: str = _field(
        "",
        "Folder with a folder of images per class, or with train, validation "
        "and test folders that hold those.",
    )
    manifest: str = _field(
        "",
        "CSV instead of --input_dir: path,label[,patient_id][,split], with "
        "paths relative to it.",
    )
    columns: tuple[str, ...] = _field(
        (),
        "Further columns of the manifest to keep, for example sex,scanner: "
        "the report then judges the model by their values. Their content is "
        "copied as it is, so name none that identifies a patient.",
    )
    corrections: str = _field(
        "",
        "CSV with id,label: images whose label is to be another one, such as "
        "the doubtful_labels.csv of an evaluation once somebody has taken out "
        "the rows whose label is right.",
    )
    patient_regex: str = _field(
        "",
        "Regular expression that finds the patient id in the relative path: "
        "its first group, or all of it. Images of a patient share a split.",
    )
    stored_size: int = _field(
        256,
        "Short side of stored training images, in pixels; smaller images are "
        "not enlarged.",
        lower_bound=8,
    )
    channels: str = _field(
        "auto", "auto: 1 if all are grey.", enum_values=("auto", "1", "3")
    )
    validation_fraction: float = _field(
        0.15, "Share of the images to validate on, where no split is given."
    )
    test_fraction: float = _field(
        0.15, "Share of the images to test on, where no split is given."
    )
    seed: int = _field(0, "Of the splits and the order.")
    num_folds: int = _field(
        0, "Parts for cross-validation; 0: no cross-validation."
    )
    fold: int = _field(0, "Which part is the test split, from 0.")
    previous: str = _field(
        "",
        "Data directory of an earlier build; its images keep their split. "
        "Default: --output_dir, if it was built with the same split flags.",
    )
    positive_class: str = _field(
        "",
        "The positive one of two classes; default: the one whose name does "
        "not deny the other or speak of health, else the last.",
    )
    on_leak: str = _field(
        "error",
        "If given splits share patients or copies: stop, move the whole group "
        "to the split of its test member, drop the leaking training images, "
        "or allow it and say so in every report.",
        enum_values=leaks.REMEDIES,
    )
    skip_unreadable: bool = _field(
        False, "Leave unreadable files out and go on."
    )
    keep_masks: bool = _field(
        False,
        "Keep masks that lie beside their images (x_mask.png beside x.png), in "
        "the split of these.",
    )
    window_center: float | None = _field(
        None,
        "Middle of the window that values of more than 8 bits are seen "
        "through, in units of the file; default: what the file says, else "
        "robust percentiles.",
    )
    window_width: float | None = _field(None, "Its width.")
    slice_axis: int = _field(
        2,
        "Axis that NIfTI volumes are cut along: 0 sagittal, 1 coronal, 2 "
        "axial.",
        lower_bound=0,
        upper_bound=2,
    )
    num_workers: int = _field(0, "Processes; 0: one per core.", lower_bound=0)
    runner: str = _field(
        LOCAL,
        "local: the cores of this machine, which copies what is in gs:// here "
        "first; else a runner of Apache Beam, for example direct or dataflow, "
        "which works in the bucket.",
    )
    beam_options: tuple[str, ...] = _field(
        (),
        "An option of that runner, for example --beam_options=--region=X; may "
        "be given several times.",
    )

    def __post_init__(self):
        if bool(self.input_dir) == bool(self.manifest):
            raise ValueError(
                "Either --input_dir or --manifest says where the images are. "
                f"Received: input_dir={self.input_dir!r}, "
                f"manifest={self.manifest!r}."
            )
        if self.columns and not self.manifest:
            raise ValueError(
                "--columns are those of a --manifest; folders have none."
            )
        # These check themselves.
        _ = self.splitting, self.reading

    @property
    def splitting(self) -> splits.SplitOptions:
        """How images are shared out."""
        fields = dataclasses.fields(splits.SplitOptions)
        return splits.SplitOptions(*(getattr(self, f.name) for f in fields))

    @property
    def reading(self) -> scan.ReadOptions:
        """How files are read."""
        return scan.ReadOptions(
            self.window_center, self.window_width, self.slice_axis
        )

    @property
    def training_format(self) -> training_images.TrainingFormat:
        """How training images are stored."""
        channels = 0 if self.channels == "auto" else int(self.channels)
        return training_images.TrainingFormat(self.stored_size, channels)

    def to_record(self) -> dict:
        """What `dataset.json` says of them."""
        return {
            **dataclasses.asdict(self.splitting),
            # Not the expression: it may spell out a part of the ids.
            "patients_from_path": bool(self.patient_regex),
            "on_leak": self.on_leak,
            "skip_unreadable": self.skip_unreadable,
            **({"keep_masks": True} if self.keep_masks else {}),
            **dataclasses.asdict(self.reading),
        }
