"""No name of a file repeats in a data set what the header of the file says."""

import io
import re

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest

from tests.data.builders import (
    build,
    gradient,
    make_dicom,
    make_head,
    make_nifti,
    read_files,
    read_rows,
    write_heads,
)
from tests.samples import encode
from trainer.data.build import (
    output,
    pseudonyms,
    scan,
    sources,
    training_images,
)

UID = "1.2.826.0.1.3680043.9.4711.55501"


def image_id(data: bytes, name: str) -> str:
    """What a file of a class `tumor` is called behind it."""
    source = sources.Source("", f"tumor/{name}", "tumor")
    form = training_images.TrainingFormat(32, 1)
    options = scan.ReadOptions()
    (image, *_) = options.decode(data)
    versions = training_images.encode_for_training(image.pixels, form)
    facts = scan._describe(image, 0, source, data, versions, b"key")
    return facts.image_id.removeprefix("tumor/")


def nested(**elements):
    pydicom = pytest.importorskip("pydicom")
    item = pydicom.Dataset()
    item.update({k: v for k, v in elements.items() if not isinstance(k, str)})
    for name, value in elements.items():
        setattr(item, name, value)
    return [item]


@pytest.mark.parametrize(
    ("elements", "name"),
    [
        ({"PatientID": "PID-555"}, "PID555"),
        ({"PatientID": "PID555"}, "PID-555"),
        ({"PatientID": "pid 555"}, "PID_555"),
        ({"PatientID": "7"}, "7"),
        ({"AccessionNumber": "A1"}, "a-1"),
        ({"StudyID": "S-987"}, "S987"),
        ({"OtherPatientIDs": ["X-1", "MRN/4711"]}, "mrn4711"),
        ({"OtherPatientIDsSequence": nested(PatientID="MRN4711")}, "MRN_4711"),
        ({"AdmissionID": "Q9"}, "q9"),
        ({"RequestedProcedureID": "RP17"}, "RP-17"),
        ({"DeviceSerialNumber": "31337"}, "31337"),
        ({"StationName": "CT-EAST"}, "cteast"),
        ({"InstitutionName": "St. Mary's Hospital"}, "Hospital"),
        ({"PatientAddress": "Lindenstr. 5"}, "Lindenstrasse"[:9]),
        ({"PatientComments": "seen by Hofmann"}, "Hofmann"),
        ({"PatientName": "Müller^Hans"}, "Mueller"),
        ({"PatientName": "Mueller^Hans"}, "Müller"),
        ({"PatientName": "Müller^Hans"}, "Muller"),
        ({"PatientName": "Mueller^Hans"}, "MULLER"),
        ({"PatientName": "Müller^Hans"}, "Mu\u0308ller"),
        ({"PatientName": "Weiß^A"}, "weiss"),
        ({"PatientName": "Sørensen^A"}, "Sorensen"),
        ({"PatientName": "O'Neill^A"}, "oneill"),
        ({"PatientName": "Li^Na"}, "LiNa"),
        ({"PatientName": "Li^Na"}, "na-li"),
        ({"PatientName": "Eva^Ana"}, "AnaEva"),
        ({"PatientMotherBirthName": "Kowalska"}, "kowalska"),
        ({"ReferringPhysicianName": "Hofmann^Eva"}, "dr.hofmann"[3:]),
        ({"OperatorsName": ["A^B", "Hofmann^Eva"]}, "hofmann"),
        ({"PatientAge": "045Y"}, "45y"),
        ({"PatientWeight": "83.5"}, "83.5"),
        ({"StudyTime": "101530.25"}, "10-15-30"),
        ({"SOPInstanceUID": UID}, UID),
        ({"StudyInstanceUID": UID}, "55501"),
        (
            {"ReferencedImageSequence": nested(ReferencedSOPInstanceUID=UID)},
            UID,
        ),
        *(
            ({element: value}, name)
            for element, value in (
                ("PatientBirthDate", "19700305"),
                ("StudyDate", "19700305"),
                ("AcquisitionDateTime", "19700305101530.5"),
            )
            for name in (
                *("19700305", "1970-03-05", "1970.3.5", "05031970", "5.3.1970"),
                *("03051970", "3-5-1970", "700305", "050370", "05Mar1970"),
                *("5_mar_1970", "1970mar05"),
            )
        ),
    ],
)
def test_name_that_repeats_the_header_is_hidden(elements, name):
    data = make_dicom(gradient(), **elements)
    hidden = pseudonyms.MARK
    assert image_id(data, f"{name}_x.dcm") == f"{hidden}_x.dcm"
    assert image_id(data, f"z-{name}/x.dcm") == f"z-{hidden}/x.dcm"
    # Another patient's file may be called so.
    other = make_dicom(gradient(), without=["PatientID"])
    assert image_id(other, f"{name}_x.dcm") == f"{name}_x.dcm"


def test_private_element_counts_whatever_its_type_is_known():
    pydicom = pytest.importorskip("pydicom")
    for kind, value in (("LO", "Hofmann 12"), ("UN", b"Hofmann 12")):
        data = pydicom.dcmread(io.BytesIO(make_dicom(gradient())))
        block = data.private_block(0x0099, "LIGHTBOX", create=True)
        block.add_new(1, kind, value)
        buffer = io.BytesIO()
        data.save_as(buffer)
        assert image_id(buffer.getvalue(), "hofmann.dcm") == "\0.dcm"


def test_names_that_say_nothing_of_the_header_stay():
    data = make_dicom(
        gradient(),
        PatientName="Anonymous",
        PatientID="0",
        Modality="MR",
        BodyPartExamined="CHEST",
        Manufacturer="SIEMENS",
        StudyDate="20200101",
        StudyID="1",
    )
    for name in ("chest/IM_0001.dcm", "MR/1.dcm", "siemens_anonymous.dcm"):
        assert image_id(data, name) == name


def with_exif(**values):
    exif = PIL.Image.Exif()
    for name, value in values.items():
        exif[PIL.ExifTags.Base[name]] = value
    return encode(gradient(), "JPEG", exif=exif)


def with_png_text(text):
    chunks = PIL.PngImagePlugin.PngInfo()
    chunks.add_text("Description", text)
    return encode(gradient(), "PNG", pnginfo=chunks)


def with_nifti_text(**fields):
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(make_head(0, size=32)[..., None], np.eye(4))
    for name, value in fields.items():
        image.header[name] = value
    return image.to_bytes()


@pytest.mark.parametrize(
    "data",
    [
        with_exif(Artist="Dr. Müller".encode()),
        with_exif(ImageDescription="scan of Müller, Hans".encode()),
        with_exif(XPAuthor="Müller".encode("utf-16-le")),
        encode(gradient(), "JPEG", comment="patient: Mueller"),
        with_png_text("Müller, Hans"),
        with_png_text("Müller, 漢字"),
        with_png_text("<x:a><b>Hans Mueller</b></x:a>" + " " * 4000),
        with_png_text('<x:a dc:who="Hans Mueller" y="1"/>'),
        with_nifti_text(descrip=b"Mueller Hans"),
        with_nifti_text(db_name=b"MUELLER"),
    ],
)
def test_plain_image_or_volume_counts_as_its_texts_say(data):
    assert image_id(data, "mueller_1.jpeg") == "\0_1.jpeg"
    assert image_id(data, "lesion_1.jpeg") == "lesion_1.jpeg"


def damaged():
    """Files that cannot be read, by their names, which name a patient."""
    whole = make_dicom(gradient(), PatientName="Secretname^Hidden")
    return {
        "Secretname_1.dcm": whole[:-100],
        "Secretname_2": whole[:200],
        "Secretname_3.DCM": bytes(500),
        "Secretname_4.dcm": b"",
        "Secretname_5.png": whole[:400],
        "Secretname_6.nii.gz": make_nifti(gradient()[..., None])[:360],
    }


def test_unreadable_file_is_called_by_its_digest(tmp_path, capfd):
    pytest.importorskip("pydicom")
    write_heads(tmp_path / "s", range(12))
    for name, data in damaged().items():
        (tmp_path / "s" / "tumor" / name).write_bytes(data)
    with pytest.raises(ValueError, match="cannot be read") as raised:
        build(tmp_path / "s", tmp_path / "r")
    listed = (tmp_path / "r" / output.UNREADABLE_FILE).read_text()
    build(tmp_path / "s", tmp_path / "r", skip_unreadable=True)
    printed = capfd.readouterr()
    told = f"{raised.value}{listed}{printed.out}{printed.err}".encode()
    for text in (told, *read_files(tmp_path / "r").values()):
        assert b"secret" not in text.lower()
    assert "sha256sum" in str(raised.value)
    names = re.findall(r"^tumor/sha256-([0-9a-f]{12}),", listed, re.MULTILINE)
    assert len(set(names)) == len(damaged())


def test_files_of_an_unknown_patient_have_pseudonyms_of_their_own(tmp_path):
    pytest.importorskip("pydicom")
    for index in range(12):
        path = tmp_path / "s" / "ab"[index % 2] / f"Secretname{index:02d}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        head = make_head(index, size=32)
        path.write_bytes(make_dicom(head, without=["PatientID"]))
    build(tmp_path / "s", tmp_path / "r")
    names = {row["id"] for row in read_rows(tmp_path / "r")}
    patients = {re.sub(r"\d\d\.dcm", "", name)[2:] for name in names}
    assert len(patients) == 12
    assert all(re.fullmatch(r"patient-[0-9a-f]{10}", p) for p in patients)
