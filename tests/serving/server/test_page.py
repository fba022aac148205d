"""The page, as a person uses it in a browser."""

import base64
import contextlib
import io
import json
import os
import shutil
import subprocess
import time

import numpy as np
import pytest
import requests
from PIL import Image

from tests.conftest import SHARED
from tests.serving import brightness

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class Browser:
    """Headless Chromium, spoken to through a pipe (--remote-debugging-pipe)."""

    def __init__(self, profile):
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        self._number, self._buffer = 0, b""

        def place_pipes():
            # Chromium reads from descriptor 3 and writes to 4.
            high = [os.dup(end) for end in (to_browser, from_browser)]
            for end, number in zip(high, (3, 4), strict=True):
                os.dup2(end, number)

        self._process = subprocess.Popen(
            [
                *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu"),
                *("--remote-debugging-pipe", "--disable-dev-shm-usage"),
                *(f"--user-data-dir={profile}", "--window-size=1000,900"),
                "about:blank",
            ],
            preexec_fn=place_pipes,
            close_fds=False,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._session = None
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(t for t in targets if t["type"] == "page")["targetId"]
        self._session = self.call(
            "Target.attachToTarget", targetId=target, flatten=True
        )["sessionId"]

    def call(self, method, **parameters):
        self._number += 1
        message = {
            "id": self._number,
            "method": method,
            "params": parameters,
        }
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._buffer:
                received = os.read(self._read, 2**16)
                assert received, "the browser is gone"
                self._buffer += received
            text, self._buffer = self._buffer.split(b"\0", 1)
            answer = json.loads(text)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def run(self, script):
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, script, timeout_s=20):
        deadline = time.monotonic() + timeout_s
        while not self.run(script):
            assert time.monotonic() < deadline, script
            time.sleep(0.05)

    def text(self, element):
        return self.run(f"document.getElementById('{element}').innerText")

    def choose(self, path):
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector="#file")
        self.call(
            "DOM.setFileInputFiles", nodeId=node["nodeId"], files=[str(path)]
        )

    def close(self):
        with contextlib.suppress(AssertionError, BrokenPipeError):
            self._session = None
            self.call("Browser.close")
        self._process.wait(20)
        os.close(self._write)
        os.close(self._read)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    running = Browser(tmp_path_factory.mktemp("profile"))
    yield running
    running.close()


@pytest.fixture
def page(browser, rest_target):
    browser.call("Page.navigate", url=f"{rest_target}/")
    browser.wait_for("document.querySelector('#model option') !== null")
    return browser


SHOWN = "!document.getElementById('result').hidden"
FAILED = "!document.getElementById('error').hidden"


def test_chosen_image_is_answered(page, tmp_path):
    (tmp_path / "bright.png").write_bytes(brightness.encode_image(204))
    page.choose(tmp_path / "bright.png")
    page.wait_for(SHOWN)
    assert page.text("decision") == "Positive (score 0.800)"
    assert page.text("label") == "Most probable: bright"
    assert page.text("probabilities").split() == [
        *("dark", "20.0", "%", "bright", "80.0", "%")
    ]
    assert "unlike those" in page.text("warning")
    assert "1.60" in page.text("warning")
    assert page.text("version") == "brightness, version 1"
    overlay = base64.b64encode(brightness.OVERLAY).decode()
    source = "document.getElementById('image').src"
    assert page.run(source) == f"data:image/png;base64,{overlay}"
    page.run("document.getElementById('overlay').click()")
    assert page.run(source) != f"data:image/png;base64,{overlay}"


def test_dropped_image_is_answered(page):
    content = base64.b64encode(brightness.encode_image(51)).decode()
    page.run(
        f"""(() => {{
          const bytes = Uint8Array.from(atob("{content}"),
                                        (c) => c.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], "dark.png"));
          document.body.dispatchEvent(new DragEvent("drop", {{
            bubbles: true, cancelable: true, dataTransfer: transfer}}));
        }})()"""
    )
    page.wait_for(SHOWN)
    assert page.text("decision") == "Negative (score 0.200)"
    assert page.text("warning") == ""


def test_file_that_is_no_image_is_one_sentence(page, tmp_path):
    (tmp_path / "note.txt").write_text("not an image")
    page.choose(tmp_path / "note.txt")
    page.wait_for(FAILED)
    assert page.text("error").startswith("note.txt: ")
    assert page.run("document.getElementById('result').hidden")


def test_dicom_is_shown_and_answered(page):
    path = SHARED / "data" / "dicom" / "MR_small.dcm"
    if not path.exists():
        pytest.skip("no shared DICOM files")
    page.choose(path)
    page.wait_for(SHOWN)
    assert "MR_small.dcm" in page.text("name")
    page.run("document.getElementById('overlay').click()")
    page.wait_for("document.getElementById('image').naturalWidth === 64")


def test_files_become_the_pixels_of_training(rest_target):
    buffer = io.BytesIO()
    Image.new("L", (8, 8), 51).save(buffer, "TIFF")
    answer = requests.post(
        f"{rest_target}/page/images", data=buffer.getvalue(), timeout=10
    ).json()
    assert answer["num_images"] == 1
    (image,) = answer["images"]
    decoded = Image.open(io.BytesIO(base64.b64decode(image["b64"])))
    np.testing.assert_array_equal(decoded, np.full((8, 8), 51))


def test_page_loads_nothing_from_elsewhere(rest_target):
    answer = requests.get(f"{rest_target}/", timeout=10)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "//" not in answer.text
