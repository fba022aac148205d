"""A server whose versions are in a bucket, and what publishing does to it."""

import shutil
import threading

import pytest

from deploy import model_base, publish
from serving import client, local_server
from tests.serving import brightness
from tests.serving.helpers import wait_for
from trainer.export import versions
from trainer.storage import paths

pytestmark = pytest.mark.slow


def test_publishing_and_rollback_reach_a_server_and_fail_no_request(
    cloud, bucket_name, saved_models, tmp_path
):
    for version in ("1", "2"):
        shutil.copytree(saved_models / version, tmp_path / version)
        versions.write_manifest(str(tmp_path / version), {})
    path = f"gs://{bucket_name}/models/brightness"
    base = model_base.open_base(path)
    assert publish.publish(str(tmp_path / "1"), base, force=True) == 1
    running = local_server.start(path, "m")
    asked = client.Client(running.grpc_target, "m")
    image = brightness.encode_image(204)  # Version 2 decides otherwise.
    decisions, errors, done = [], [], threading.Event()

    def ask():
        while not done.is_set():
            try:
                decisions.append(asked.predict([image])[0].decision)
            except client.ServerError as error:
                errors.append(error)

    def served():
        return [v.version for v in asked.status() if v.state == "AVAILABLE"]

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        wait_for(lambda: decisions)
        # A version whose graph has not arrived is none.
        paths.write_atomically(f"{path}/7/variables/variables.index", "")
        cloud.inject(503, "GET .*prefix", times=2)
        assert publish.publish(str(tmp_path / "2"), base, force=True) == 8
        wait_for(lambda: served() == [8], 60)
        publish.roll_back(base)
        wait_for(lambda: served() == [1], 60)
        # The one that was under way may have had the other version.
        num_before = len(decisions)
        wait_for(lambda: len(decisions) > num_before + 1)
    finally:
        done.set()
        thread.join()
        running.stop()
    assert not errors
    assert set(decisions) == {True, False} and decisions[-1] is True


def test_bucket_that_cannot_be_read_is_one_sentence(cloud):
    with pytest.raises(OSError, match="gs://absent does not exist"):
        local_server.start("gs://absent/m", "m")
