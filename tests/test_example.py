"""The notebook, from its first cell to its last."""

import nbclient
import nbformat
import pytest

from tests.samples import ROOT


@pytest.mark.slow
def test_notebook_ends_with_a_prediction_and_its_picture(tmp_path, monkeypatch):
    settings = {"NUM_IMAGES": 60, "IMAGE_SIZE": 32, "EPOCHS": 1}
    for name, value in {**settings, "WORK_DIR": tmp_path}.items():
        monkeypatch.setenv(name, str(value))
    book = nbformat.read(ROOT / "examples/brain_mri.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in book.cells)
    # The shallow backbone of all tests.
    shallow = "from tests import quick; quick.set_up(1)"
    book.cells.insert(0, nbformat.v4.new_code_cell(shallow))
    client = nbclient.NotebookClient(
        book, timeout=300, resources={"metadata": {"path": str(ROOT)}}
    )
    client.execute()
    report, prediction, picture = (
        cell.outputs[-1].data for cell in book.cells[-3:]
    )
    assert "Content-Security-Policy" in report["text/html"]
    assert "'threshold'" in prediction["text/plain"]
    assert "image/png" in picture
