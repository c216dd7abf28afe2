"""Disks that are full or read-only, and limits of the process."""

import contextlib
import os
import resource
import subprocess

import pytest

from features import open_store
from tests.faults.table import ERROR, case

AREA = "disks"


@contextlib.contextmanager
def small_disk(folder, options):
    """Mount a small file system; skip the test where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "scenestore-test", str(folder)]
    with contextlib.suppress(FileNotFoundError):
        if subprocess.run(command, capture_output=True).returncode == 0:
            try:
                yield
            finally:
                subprocess.run(["umount", "-l", str(folder)], check=True)
            return
    pytest.skip("mounting a file system is not allowed here")


def full(options, words, grow):
    def test(lab):
        disk = lab.folder / "disk"
        with small_disk(disk, options):
            lab.store = disk / "st"
            lab.fails(words)
            assert not list(disk.rglob("*.partial"))
            subprocess.run(["mount", "-o", f"remount,{grow}", str(disk)], check=True)
            lab.heals()

    return test


for size in (20, 40, 80, 120):
    case(AREA, f"a disk of {size} kB", ERROR)(full(f"size={size}k", "The disk is full", "size=50m"))
for count in (4, 8, 14):
    case(AREA, f"a disk of {count} inodes", ERROR)(
        full(f"nr_inodes={count}", "The disk is full", "nr_inodes=9999")
    )


@case(AREA, "a store on a read-only disk", ERROR)
def read_only(lab):
    disk = lab.folder / "disk"
    with small_disk(disk, "size=50m"):
        lab.store = disk / "st"
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        lab.fails("read-only")
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        lab.heals()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        code, said = lab.run()  # a finished store can be used
        assert code == 0, said
        assert open_store(lab.store).hash == lab.hash


@case(AREA, "a limit of the file size", ERROR, quick=True)
def file_size(lab):
    def limited(*more, **env):
        start = subprocess.Popen

        def popen(command, **options):
            def limit():
                resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))

            return start(command, preexec_fn=limit, **options)

        subprocess.Popen = popen
        try:
            return kept(*more, **env)
        finally:
            subprocess.Popen = start

    kept, lab.start = lab.start, limited
    lab.fails("File too large")
    lab.start = kept
    lab.heals()


@case(AREA, "a store path of 300 characters", ERROR)
def long_path(lab):
    store, lab.store = lab.store, lab.folder / ("x" * 300)
    lab.fails("File name too long")
    lab.store = store
    lab.heals()


@case(AREA, "a file where the store should be", ERROR)
def in_the_way(lab):
    lab.store.write_text("mine")
    lab.fails(str(lab.store))
    assert lab.store.read_text() == "mine"
    os.unlink(lab.store)
    lab.heals()
