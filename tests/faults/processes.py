"""Killed, hanging and crashing processes of a build on one machine."""

import contextlib
import os
import signal
import socket
import time
from pathlib import Path

from features import open_store
from tests.faults.lab import files, kill_some, members
from tests.faults.table import CLOSED, ERROR, SAME, SKIPPED, case

AREA = "processes"
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
MOMENTS = 4.0  # seconds: from the start of a build to its end


def killed(kind, name):
    def test(lab, seed):
        build = lab.start(FAULTY_SECONDS="0.01")
        kill_some(build, kind, SIGNALS[name], seed, MOMENTS)
        code, said = lab.end(build)
        if code == 0:
            assert open_store(lab.store).hash == lab.hash, said
        lab.heals()

    return test


for kind, names in {
    "luigi": ("SIGKILL", "SIGTERM", "SIGINT"),
    "worker": ("SIGKILL", "SIGTERM"),
    "group": ("SIGKILL", "SIGINT"),
}.items():
    for name in names:
        what = {"group": "all processes", "luigi": "the build", "worker": "a worker"}[kind]
        fault = f"{name} to {what} at a random moment"
        more = {"quick": (kind, name) == ("worker", "SIGKILL"), "times": 5}
        case(AREA, fault, SAME, **more)(killed(kind, name))


@case(AREA, "SIGKILL to each worker while it starts, four times", ERROR)
def start(lab):
    build = lab.start()
    seen = set()
    end = time.monotonic() + 60
    while build.poll() is None and time.monotonic() < end:
        for pid, line in members(build.pid).items():
            if "spawn_main" in line and pid not in seen:
                seen.add(pid)
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    code, said = lab.end(build)
    assert code == 30, said
    assert "worker processes ended while they started" in said
    lab.heals()


FAULTS = {
    "exit": ("leaves its process", "ended the process", {}),
    "kill": ("is killed each time", "ended the process", {}),
    "crash": ("segfaults", "crashed the process: Segmentation fault", {}),
    "hang": ("hangs", "took longer than 1 s", {"--item-timeout": "1"}),
    "raise": ("raises an error", "failed: ZeroDivisionError", {}),
    "leave": ("calls sys.exit", "failed: SystemExit", {}),
    "none": ("returns None", "returned None instead of Detections", {}),
}


def blamed(mode):
    _, words, options = FAULTS[mode]
    more = [word for pair in options.items() for word in pair]

    def test(lab):
        env = {"FAULTY_IMAGE": "065.png", "FAULTY_MODE": mode}
        error = lab.fails(words, *more, **env)
        assert "065.png" in error
        code, said = lab.run(*more, "--on-error", "skip", **env)
        assert code == 0, said
        assert "skipped       1 images" in said
        store = open_store(lab.store)
        assert list(store.skipped) == ["065.png"]
        assert store.hash != lab.hash
        lab.heals(kept=files(lab.store))  # the good key was not touched

    return test


@case(AREA, "another user of the machine tries to connect to a build", CLOSED, quick=True)
def doors(lab):
    with socket.create_server(("127.0.0.1", 0)):
        assert len(listening(os.getpid())) == 1
    build = lab.start(FAULTY_SECONDS="0.03")
    seen, found = set(), set()
    while build.poll() is None:
        for pid, line in members(build.pid).items():
            seen.add("spawn_main" in line)
            found |= listening(pid)
        time.sleep(0.1)
    code, said = lab.end(build)
    assert code == 0, said
    assert seen == {False, True}  # the build and its workers
    assert not found


def listening(pid):
    """Return the sockets of a process that others can connect to, as the kernel lists them."""
    own = set()
    with contextlib.suppress(OSError):  # it has ended
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # the file has been closed
                own.add(os.readlink(path).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6", "unix"):
        path = Path(f"/proc/net/{table}")
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            words = line.split()
            inode = words[6 if table == "unix" else 9]
            named = len(words) > 7 if table == "unix" else words[3] in ("0A", "07")
            if inode in own and named:
                found.add(f"{table}: {line}")
    return found


for mode, (what, _, _) in FAULTS.items():
    case(AREA, f"a detector that {what} on one image", SKIPPED, quick=mode == "hang")(blamed(mode))


@case(AREA, "a detector that needs more memory than --worker-memory", ERROR)
def memory(lab):
    env = {"FAULTY_IMAGE": "065.png", "FAULTY_MODE": "memory"}
    more = ("--worker-memory", "4000", "--on-error", "skip")
    assert "065.png: out of memory" in lab.fails("out of memory", *more, **env)
    lab.heals()


@case(AREA, "a detector that gets an I/O error", ERROR)
def io(lab):
    env = {"FAULTY_IMAGE": "065.png", "FAULTY_MODE": "io"}
    lab.fails("Input/output error", "--on-error", "skip", **env)
    lab.heals()


@case(AREA, "two builds of one store at once", SAME, quick=True)
def twice(lab):
    builds = [lab.start(FAULTY_SECONDS="0.01") for _ in range(2)]
    for build in builds:
        code, said = lab.end(build)
        assert code == 0, said
    lab.heals()


@case(AREA, "builds of two data sets in one folder at once", SAME)
def neighbours(lab):
    builds = [lab.start("--dataset", name, FAULTY_SECONDS="0.01") for name in ("one", "two")]
    for build in builds:
        code, said = lab.end(build)
        assert code == 0, said
    for path in lab.store.glob("*-*.json"):
        assert open_store(path).hash == lab.hash
