"""Stores behind URLs: pushed, read through a local copy, damaged on the way."""

import os
import pickle
import resource
import shutil

import numpy as np
import pytest

from features import open_store
from features.commands.app import app
from features.errors import DamagedError, FormatError, MissingDependency, StoreError
from features.reading import push_store, url_of


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCENESTORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=["file", "s3"])
def bucket(request, tmp_path, monkeypatch):
    """A URL to push to: a folder, or a bucket of a real S3 server on this machine."""
    if request.param == "file":
        yield f"file://{tmp_path}/bucket"
        return
    pytest.importorskip("s3fs", reason="the package s3fs is not installed")
    server = pytest.importorskip("moto.server", reason="the package moto is not installed")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    name = f"bucket-{os.urandom(4).hex()}"
    s3fs.S3FileSystem().mkdir(name)
    yield f"s3://{name}/stores/mine"
    s3fs.S3FileSystem.clear_instance_cache()
    running.stop()


def remote(url):
    import fsspec

    fs, root = fsspec.core.url_to_fs(url)
    fs.invalidate_cache()
    return fs, root


def test_a_pushed_store_is_read_from_its_url(tiny_records, bucket, cache):
    store = tiny_records(images=70).open()
    files, _ = push_store(store.path.parent, bucket)
    assert files > 10
    opened = open_store(bucket)
    assert opened.hash == store.hash
    assert not list(cache.rglob("*.h5"))  # nothing was read
    rows = [69, 0, 3]
    np.testing.assert_array_equal(
        opened.gather("object_features", rows), store.gather("object_features", rows)
    )
    assert opened.text("1000.jpg#0") == store.text("1000.jpg#0")
    assert opened.images.equals(store.images)
    assert {path.parent.name.split("-")[0] for path in cache.rglob("*.h5")} >= {"index", "regions"}
    again = pickle.loads(pickle.dumps(opened))
    assert again.graph("1001.jpg").labels == store.graph("1001.jpg").labels
    batches = open_store(bucket).loader("train", batch_size=8, seed=1)
    assert sum(len(images.rows) for images, _ in batches) > 0
    assert open_store(f"{bucket}/{store.path.name}").hash == store.hash
    # pushed again, only the manifests are sent
    assert push_store(store.path, bucket)[0] < 9


def test_a_damaged_object_is_an_error_and_a_damaged_copy_is_fetched_again(
    tiny_records, bucket, cache
):
    store = tiny_records(images=70).open()
    push_store(store.path, bucket)
    wanted = store.gather("boxes", [0])
    open_store(bucket).gather("boxes", [0])
    copy = next(path for path in cache.rglob("00000.h5") if "visual" in path.parent.name)
    raw = bytearray(copy.read_bytes())
    raw[-40] ^= 1
    copy.chmod(0o644)
    copy.write_bytes(raw)
    np.testing.assert_array_equal(open_store(bucket).gather("boxes", [0]), wanted)
    fs, root = remote(bucket)
    target = f"{root}/{copy.parent.name}/00000.h5"
    with fs.open(target, "wb") as file:
        file.write(bytes(raw))
    shutil.rmtree(cache)
    with pytest.raises(DamagedError, match=r"00000\.h5: .* differs from .*features push --again"):
        open_store(bucket).gather("boxes", [0])
    push_store(store.path, bucket, again=True)  # the size alone does not tell
    np.testing.assert_array_equal(open_store(bucket).gather("boxes", [0]), wanted)
    shutil.rmtree(cache)
    with fs.open(target, "wb") as file:
        file.write(bytes(raw[:-10]))
    with pytest.raises(DamagedError, match=r"00000\.h5: .*bytes"):
        open_store(bucket).gather("boxes", [0])
    fs.rm(target)
    with pytest.raises(StoreError, match=r"00000\.h5: there is no such file"):
        open_store(bucket).gather("boxes", [0])
    push_store(store.path, bucket)
    np.testing.assert_array_equal(open_store(bucket).gather("boxes", [0]), wanted)


@pytest.mark.parametrize("bucket", ["file"], indirect=True)
def test_damaged_manifests_are_named_by_their_url(tiny_records, bucket):
    store = tiny_records(images=12).open()
    push_store(store.path.parent, bucket)
    fs, root = remote(bucket)
    group = store.group("visual").manifest.folder.name
    for name in ("latest.json", store.path.name, f"{group}/manifest.json"):
        whole = fs.cat_file(f"{root}/{name}")
        for damaged in (b"", whole[:-9], b"<html>Log in.</html>", whole.replace(b"hash", b"hush")):
            fs.rm(f"{root}/{name}")
            fs.pipe_file(f"{root}/{name}", damaged)
            if damaged == whole:
                continue
            with pytest.raises(DamagedError, match=rf"^{bucket}/{name}: .*features push --again"):
                open_store(bucket).gather("boxes", [0])
        fs.pipe_file(f"{root}/{name}", whole)


def test_damage_is_not_pushed_and_an_unfinished_push_is_no_store(tiny_records, bucket):
    store = tiny_records(images=12).open()
    path = store.group("regions").manifest.folder / "00000.h5"
    raw = bytearray(path.read_bytes())
    raw[-40] ^= 1
    path.chmod(0o644)
    path.write_bytes(raw)
    with pytest.raises(DamagedError, match=r"00000\.h5: .* Repair it first"):
        push_store(store.path, bucket)
    with pytest.raises(StoreError, match=r"latest\.json: there is no such file"):
        open_store(bucket)


def test_a_full_disk_that_is_pushed_to_is_named_by_its_url(tiny_records, tmp_path):
    store = tiny_records(images=12).open()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StoreError, match=r"^file:///.*/far/index-.*File too large"):
            push_store(store.path, f"file://{tmp_path}/far")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_command_pushes_and_shows(tiny_records, bucket, capsys):
    store = tiny_records(images=12).open()
    assert app.call(["push", str(store.path.parent), bucket]) == 0
    assert "bytes uploaded" in capsys.readouterr().out
    assert app.call(["show", bucket]) == 0
    assert store.hash[:12] in capsys.readouterr().out


def test_urls_that_cannot_be_read(tmp_path):
    with pytest.raises(StoreError, match="there is no such file or bucket"):
        open_store(f"file://{tmp_path}/nowhere")
    with pytest.raises((StoreError, MissingDependency), match="nosuch"):
        open_store("nosuch://bucket/store")
    (tmp_path / "latest.json").write_text("{}")
    with pytest.raises((DamagedError, FormatError), match=r"latest\.json"):
        open_store(f"file://{tmp_path}")
    assert url_of(tmp_path) == ""
