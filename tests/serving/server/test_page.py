"""The page, as a person uses it in a browser."""

import base64
import io
import shutil

import numpy as np
import pytest
import requests
from PIL import Image
from playwright import sync_api

from tests.samples import SHARED, encode
from tests.serving import brightness

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as started:
        yield started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )


@pytest.fixture
def page(browser, rest_target):
    opened = browser.new_page()
    opened.goto(f"{rest_target}/")
    opened.wait_for_selector("#model option", state="attached")
    yield opened
    opened.close()


def choose(page, name, content):
    file = {"name": name, "mimeType": "", "buffer": content}
    page.set_input_files("#file", files=[file])


def test_chosen_image_is_answered(page):
    choose(page, "bright.png", brightness.encode_image(204))
    page.wait_for_selector("#result", state="visible")
    assert page.inner_text("#decision") == "Positive (score 0.800)"
    assert page.inner_text("#label") == "Most probable: bright"
    assert page.inner_text("#probabilities").split() == [
        *("bright", "80.0", "%", "dark", "20.0", "%")
    ]
    warning = page.inner_text("#warning")
    assert "unlike those" in warning and "1.60" in warning
    assert page.inner_text("#version") == "brightness, version 1"
    overlay = base64.b64encode(brightness.OVERLAY).decode()
    source = f"data:image/png;base64,{overlay}"
    assert page.get_attribute("#image", "src") == source
    page.click("#overlay")
    assert page.get_attribute("#image", "src") != source


def test_dropped_image_is_answered(page):
    content = base64.b64encode(brightness.encode_image(51)).decode()
    page.evaluate(
        """(content) => {
          const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], "dark.png"));
          document.body.dispatchEvent(new DragEvent("drop", {
            bubbles: true, cancelable: true, dataTransfer: transfer}));
        }""",
        content,
    )
    page.wait_for_selector("#result", state="visible")
    assert page.inner_text("#decision") == "Negative (score 0.200)"
    assert page.is_hidden("#warning")


def test_file_that_is_no_image_is_one_sentence(page):
    choose(page, "note.txt", b"not an image")
    page.wait_for_selector("#error", state="visible")
    assert page.inner_text("#error").startswith("note.txt: ")
    assert page.is_hidden("#result")


def test_dicom_is_shown_and_answered(page):
    path = SHARED / "data" / "dicom" / "MR_small.dcm"
    if not path.exists():
        pytest.skip("no shared DICOM files")
    choose(page, path.name, path.read_bytes())
    page.wait_for_selector("#result", state="visible")
    assert "MR_small.dcm" in page.inner_text("#name")
    page.click("#overlay")
    page.wait_for_function(
        "document.getElementById('image').naturalWidth === 64"
    )


@pytest.mark.parametrize(
    ("value", "dtype", "shown"), [(51, np.uint8, 51), (1150, np.uint16, 204)]
)
def test_files_become_the_pixels_of_training(rest_target, value, dtype, shown):
    file = encode(np.full((8, 8), value, dtype), "TIFF")
    url = f"{rest_target}/page/images?model={brightness.MODEL_NAME}"
    answer = requests.post(url, data=file, timeout=10).json()
    assert answer["num_images"] == 1
    (image,) = answer["images"]
    decoded = Image.open(io.BytesIO(base64.b64decode(image["b64"])))
    np.testing.assert_array_equal(decoded, np.full((8, 8), shown))
    lost = requests.post(url + "s", data=file, timeout=10)
    assert lost.status_code == 404 and "error" in lost.json()


def test_page_loads_nothing_from_elsewhere(rest_target):
    answer = requests.get(f"{rest_target}/", timeout=10)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "//" not in answer.text
