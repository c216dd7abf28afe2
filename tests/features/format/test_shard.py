"""Shards: what is written, how it survives faults, and that h5py alone can read it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from features.errors import FormatError, WriteError
from features.format.codec import pack_regions
from features.format.group import Group
from features.format.shard import Shard


def regions(rows=8, dim=32, seed=0):
    random = np.random.default_rng(seed)
    features = [random.random((3, dim), np.float32) for _ in range(rows)]
    unions = [random.random((2, dim), np.float32) for _ in range(rows)]
    return pack_regions(features, unions, 4, 3)


def write(folder, columns=None, number=0, key="k" * 64, rows=8):
    columns = columns or regions(rows)
    return Group("regions", key, folder).write(
        number, range(number * rows, number * rows + rows), columns
    )


def test_h5py_alone_reads_what_was_written(tmp_path):
    columns = regions()
    record = write(tmp_path, columns)
    with h5py.File(Shard(tmp_path, 0).path, "r") as file:
        assert file.attrs["format"] == "scenestore"
        assert file.attrs["format_version"] == 1
        assert file.attrs["key"] == "k" * 64
        for name, data in columns.items():
            assert file[name].dtype == data.dtype
            np.testing.assert_array_equal(file[name][()], data)
            assert file[name].id.get_offset() == record.parts[name].offset
            assert file[name].chunks is None
            assert file[name].attrs["encoding-type"] == "array"


def test_large_columns_start_on_a_page_and_hashes_are_those_of_the_bytes(tmp_path):
    columns = regions(rows=64)
    record = write(tmp_path, columns, rows=64)
    raw = Shard(tmp_path, 0).path.read_bytes()
    for name, part in record.parts.items():
        assert part.offset % 4096 == 0
        data = raw[part.offset : part.offset + part.nbytes]
        assert data == columns[name].tobytes()
        assert part.sha256 == hashlib.sha256(data).hexdigest()
    assert record.size == len(raw)


def test_equal_columns_give_equal_files(tmp_path):
    write(tmp_path / "a")
    time.sleep(1.1)  # HDF5 would store seconds
    write(tmp_path / "b")
    for name in ("00000.h5", "00000.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_sidecar_says_what_was_returned(tmp_path):
    record = write(tmp_path)
    assert Shard(tmp_path, 0).record == record
    assert Shard(tmp_path, 0).finished("k" * 64) == record
    assert Shard(tmp_path, 0).finished("other") is None
    assert Shard(tmp_path, 1).finished("k" * 64) is None
    assert os.stat(Shard(tmp_path, 0).path).st_mode & 0o777 == 0o444


def test_a_finished_shard_is_adopted_not_written_again(tmp_path):
    first = write(tmp_path)
    stamp = Shard(tmp_path, 0).path.stat().st_mtime_ns
    assert write(tmp_path, regions(seed=1)) == first  # the key says that they are equal
    assert Shard(tmp_path, 0).path.stat().st_mtime_ns == stamp


def test_a_shard_of_another_key_is_replaced(tmp_path):
    write(tmp_path)
    second = write(tmp_path, regions(seed=1), key="n" * 64)
    assert Shard(tmp_path, 0).record == second


def test_a_shard_without_sidecar_is_not_done(tmp_path):
    first = write(tmp_path)
    Shard(tmp_path, 0).path.with_suffix(".json").unlink()
    assert Shard(tmp_path, 0).finished("k" * 64) is None
    assert write(tmp_path) == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("union_features"), "'union_features' is missing"),
        (lambda c: c.update(extra=np.zeros(8)), "no dataset 'extra'"),
        (lambda c: c.update(object_features=np.zeros((8, 4, 2))), "dtype <f8"),
        (lambda c: c.update(object_features=np.zeros((7, 4, 2), "<f2")), r"shape \(7, 4, 2\)"),
    ],
)
def test_columns_that_do_not_fit_the_schema_are_refused(tmp_path, change, message):
    columns = regions()
    change(columns)
    with pytest.raises(FormatError, match=message):
        write(tmp_path, columns)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("at", ["pwrite", "fsync", "replace"])
def test_a_failed_write_says_so_and_leaves_nothing(tmp_path, monkeypatch, at, code):
    kept = write(tmp_path)

    def fail(*_):
        raise OSError(code, os.strerror(code))

    if at == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    else:
        monkeypatch.setattr(os, at, fail)
    with pytest.raises(WriteError, match=os.strerror(code)):
        write(tmp_path, number=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.h5", "00000.json"]
    assert Shard(tmp_path, 0).record == kept


def run(code, *arguments, **options):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(__file__).parents[3],
        **options,
    )


WRITER = """
import sys
from pathlib import Path
import numpy as np
from features.format.codec import pack_regions
from features.format.group import Group
from features.format.shard import Shard
def columns(number, rows=4):
    random = np.random.default_rng(number)
    part = [random.random((2, 512), np.float32) for _ in range(rows)]
    return pack_regions(part, part, 2, 2)
def write(folder, number):
    group = Group("regions", "k" * 64, Path(folder))
    group.write(number, range(number * 4, number * 4 + 4), columns(number))
"""


def test_a_file_size_limit_is_a_clear_error(tmp_path):
    limited = """
import resource
from features.errors import WriteError
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    write(sys.argv[1], 0)
except WriteError as error:
    print("refused:", error)
"""
    done = run(WRITER + limited, tmp_path)
    assert "refused:" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_folder_is_a_clear_error(tmp_path):
    tmp_path.chmod(0o555)
    unprivileged = """
import os
from features.errors import WriteError
columns(0)
import h5py
if os.getuid() == 0:
    os.setuid(65534)
try:
    write(sys.argv[1], 0)
except WriteError as error:
    print("refused:", error)
"""
    # the folders above must be open to another user
    for parent in tmp_path.parents:
        if parent.owner() == Path.home().owner() and str(parent).startswith("/tmp/pytest"):
            parent.chmod(0o755)
    done = run(WRITER + unprivileged, tmp_path)
    tmp_path.chmod(0o755)
    assert "refused:" in done.stdout, done.stderr
    assert "ermission denied" in done.stdout


def test_two_builders_of_one_key_end_with_one_shard(tmp_path):
    both = """
for number in range(12):
    write(sys.argv[1], number)
"""
    command = [sys.executable, "-c", WRITER + both, str(tmp_path)]
    root = Path(__file__).parents[3]
    builders = [subprocess.Popen(command, cwd=root) for _ in range(2)]
    assert [builder.wait(120) for builder in builders] == [0, 0]
    names = sorted(path.name for path in tmp_path.iterdir())
    wanted = [f"{n:05d}.{kind}" for n in range(12) for kind in ("h5", "json")]
    assert names == wanted
    for number in range(12):
        record = Shard(tmp_path, number).record
        raw = Shard(tmp_path, number).path.read_bytes()
        for part in record.parts.values():
            data = raw[part.offset : part.offset + part.nbytes]
            assert hashlib.sha256(data).hexdigest() == part.sha256


@pytest.mark.slow
def test_kill_9_at_random_times_never_leaves_a_wrong_shard(tmp_path):
    """200 kills; every listed shard is right, the build finishes, the hash is that of no kill."""
    endless = """
import shutil, time
from features.format.group import Group
from features.format.shard import Shard
from features.format.files import sweep
folder = Path(sys.argv[1])
done = sys.argv[2] == "finish"
print("ready", flush=True)
while True:
    sweep(folder)
    for number in range(6):
        write(folder, number)
    print(Group("regions", "k" * 64, folder).finish(6).hash, flush=True)
    if done:
        break
    (folder / "manifest.json").unlink()
    for number in range(6):  # as a repair would: description first
        (folder / f"{number:05d}.json").unlink()
        if number % 2:
            (folder / f"{number:05d}.h5").unlink()
"""
    root = Path(__file__).parents[3]

    def start(folder, mode):
        return subprocess.Popen(
            [sys.executable, "-c", WRITER + FORKS + endless, str(folder), mode],
            cwd=root,
            stdout=subprocess.PIPE,
            text=True,
        )

    undisturbed = start(tmp_path / "calm", "finish").communicate(timeout=60)[0].split()[-1]
    folder = tmp_path / "killed"
    # one process imports everything and forks the writers that are killed: 200 in seconds
    driver = start(folder, "kill")
    report = json.loads(driver.communicate(timeout=120)[0].splitlines()[-1])
    assert report["kills"] == 200
    assert report["checked"] > 100
    assert report["wrong"] == []
    assert start(folder, "finish").communicate(timeout=60)[0].split()[-1] == undisturbed
    assert list(folder.glob("*.partial")) == []
    assert signal.SIGKILL in report["signals"]


FORKS = """
import json, os, random, signal, time, hashlib, h5py
from features.format.group import Group
from features.format.shard import Shard
from features.errors import StoreError
def check(folder):
    wrong, seen = [], 0
    for number in range(6):
        try:
            record = Shard(folder, number).record
        except StoreError:
            continue
        seen += 1
        raw = Shard(folder, number).path.read_bytes()
        for name, part in record.parts.items():
            data = raw[part.offset : part.offset + part.nbytes]
            if hashlib.sha256(data).hexdigest() != part.sha256 or len(raw) != record.size:
                wrong.append([number, name])
    return seen, wrong
if sys.argv[2] == "kill":
    folder = Path(sys.argv[1])
    folder.mkdir()
    dice, checked, wrong, signals = random.Random(0), 0, [], set()
    for kill in range(200):
        child = os.fork()
        if child:
            time.sleep(dice.uniform(0.001, 0.06))
            os.kill(child, signal.SIGKILL)
            signals.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) * -1)
            seen, bad = check(folder)
            checked, wrong = checked + seen, wrong + bad
        else:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            break
    else:
        print(json.dumps({"kills": 200, "checked": checked, "wrong": wrong,
                          "signals": sorted(signals)}))
        sys.exit()
"""
