"""Workers and schedulers of a Dask cluster that die, differ or cannot see the files."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from features import open_store
from tests.faults.lab import ROOT, members
from tests.faults.table import ERROR, SAME, SKIPPED, case

AREA = "clusters"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Cluster:
    """A Dask scheduler and one worker with a nanny, in a session each."""

    def __init__(self, lab, scheme="tcp", workers=1, **env):
        self.lab, self.env, self.workers = lab, env, workers
        self.port = free_port()
        self.address = f"{scheme}://127.0.0.1:{self.port}"
        self.options = []

    def command(self, *words):
        """Return a command as it is started."""
        return [*words]

    def _start(self, program, *words, cwd=None):
        command = [sys.executable, "-m", f"distributed.cli.{program}", *words, *self.options]
        return subprocess.Popen(
            self.command(*command),
            env=self.lab.environment(**self.env),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd=cwd or self.lab.folder,
        )

    def __enter__(self):
        self.scheduler = self._start(
            "dask_scheduler", "--host", self.address.rpartition(":")[0], "--port", str(self.port),
            "--no-dashboard",
        )  # fmt: skip
        self.nannies = [self.worker() for _ in range(self.workers)]
        self._wait()
        return self

    def _wait(self):
        """Wait until the scheduler listens; on a busy machine a build would give up before."""
        for _ in range(150):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.1)

    def worker(self):
        folder = self.lab.folder / "elsewhere"  # another working directory than the build's
        folder.mkdir(exist_ok=True)
        return self._start(
            "dask_worker", self.address, "--nthreads", "1", "--no-dashboard", "--death-timeout",
            "30", "--local-directory", str(folder), cwd=folder,
        )  # fmt: skip

    def __exit__(self, *_):
        for process in (self.scheduler, *self.nannies):
            for _ in range(3):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                for pid in members(process.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            process.wait()

    def kill(self, kind):
        if kind == "scheduler":
            self.scheduler.kill()
        elif kind == "nanny":
            self.nannies[0].kill()
        else:
            for pid, line in members(self.nannies[0].pid).items():
                if "spawn" in line and pid != self.nannies[0].pid:
                    os.kill(pid, signal.SIGKILL)


def built(lab, cluster, *more, **env):
    return lab.run("--scheduler-address", cluster.address, *more, **env)


@case(AREA, "none: a build on a scheduler and a worker in another folder", SAME, quick=True)
def undisturbed(lab):
    with Cluster(lab) as cluster:
        lab.store = lab.store.relative_to(lab.folder)  # relative paths are made absolute
        code, said = built(lab, cluster)
        lab.store = lab.folder / lab.store
        assert code == 0, said
        assert open_store(lab.store).hash == lab.hash


def killed(kind):
    def test(lab, seed):
        with Cluster(lab) as cluster:
            build = lab.start("--scheduler-address", cluster.address, FAULTY_SECONDS="0.01")
            time.sleep(random.Random(seed).uniform(2, 8))
            if kind == "luigi":
                build.kill()
            else:
                cluster.kill(kind)
                if kind != "scheduler":
                    cluster.nannies.append(cluster.worker())
            code, said = lab.end(build)
            if code == 0:
                assert open_store(lab.store).hash == lab.hash
            else:
                assert kind == "luigi" or "error: " in said, said
        with Cluster(lab) as cluster:
            lab.heals("--scheduler-address", cluster.address)

    return test


for kind in ("luigi", "worker", "nanny", "scheduler"):
    case(AREA, f"SIGKILL to the {kind} at a random moment", SAME, times=5)(killed(kind))


@case(AREA, "a detector that leaves its process on one image", SKIPPED)
def crash(lab):
    env = {"FAULTY_IMAGE": "065.png", "FAULTY_MODE": "exit"}
    with Cluster(lab, **env) as cluster:
        address = ("--scheduler-address", cluster.address)
        assert "065.png" in lab.fails("ended the process", *address)
        code, said = built(lab, cluster, "--on-error", "skip")
        assert code == 0, said
        assert list(open_store(lab.store).skipped) == ["065.png"]


@case(AREA, "a worker with another version of our code", ERROR)
def other_code(lab):
    copy = lab.folder / "other"
    for package in ("features", "pipeline", "workflows", "examples"):
        shutil.copytree(ROOT / package, copy / package)
    with (copy / "pipeline" / "vision" / "boxes.py").open("a") as file:
        file.write("\nBATCH = 64\n")
    with Cluster(lab, PYTHONPATH=str(copy)) as cluster:
        words = "a worker has other versions"
        error = lab.fails(words, "--scheduler-address", cluster.address)
        assert "scenestore" in error
        assert f" on {socket.gethostname()}" in error
    lab.heals()


@case(AREA, "a worker with another version of the detector", ERROR)
def other_plugin(lab):
    with Cluster(lab, FAULTY_VERSION="2") as cluster:
        words = "another version than the build was planned with (detector)"
        lab.fails(words, "--scheduler-address", cluster.address)
    lab.heals()


@case(AREA, "a worker that does not see the photos", ERROR)
def no_mount(lab):
    hidden = lab.folder / "hidden"
    hidden.mkdir()
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("mount namespaces are not allowed here")
    with Cluster(lab) as cluster:
        cluster.nannies[0].kill()
        cluster.nannies[0].wait()
        folder = lab.folder / "elsewhere"
        script = f"mount --bind {hidden} {lab.photos} && exec {sys.executable} -m "
        script += f"distributed.cli.dask_worker {cluster.address} --nthreads 1 --no-dashboard"
        cluster.nannies = [
            subprocess.Popen(
                ["unshare", "-m", "sh", "-c", script],
                env=lab.environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd=folder,
            )
        ]
        address = ("--scheduler-address", cluster.address, "--on-error", "skip")
        error = lab.fails("no such file", *address)
        assert f" on {socket.gethostname()}" in error
    lab.heals()


@case(AREA, "an address where nothing listens", ERROR, quick=True)
def nobody(lab):
    started = time.monotonic()
    address = f"tcp://127.0.0.1:{free_port()}"
    code, said = lab.run("--scheduler-address", address)
    assert code == 30
    assert said.count(f"error: no Dask scheduler answers at {address}") == 1, said
    assert said.count("error: ") == 1
    assert time.monotonic() - started < 60


@case(AREA, "something else listens at the address", ERROR)
def stranger(lab):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        lab.fails("no Dask scheduler answers", "--scheduler-address", address)


@case(AREA, "a scheduler without workers", ERROR)
def no_workers(lab):
    with Cluster(lab, workers=0) as cluster:
        lab.fails("has no workers", "--scheduler-address", cluster.address)


@case(AREA, "none: TLS between build, scheduler and worker", SAME)
def tls(lab):
    certify(lab)
    with Cluster(lab, scheme="tls") as cluster:
        code, said = built(lab, cluster)
        assert code == 0, said
        assert open_store(lab.store).hash == lab.hash
        shutil.rmtree(lab.store)
        lab.env = {}  # a client without a certificate
        lab.fails("no Dask scheduler answers", "--scheduler-address", cluster.address)


def certify(lab):
    """Make a certificate for all processes of a laboratory."""
    key, certificate = lab.folder / "key.pem", lab.folder / "cert.pem"
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=scenestore", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    side = "DASK_DISTRIBUTED__COMM__TLS__"
    lab.env = {f"{side}CA_FILE": str(certificate)}
    for role in ("SCHEDULER", "WORKER", "CLIENT"):
        lab.env |= {f"{side}{role}__CERT": str(certificate), f"{side}{role}__KEY": str(key)}


@case(AREA, "none: `examples/dask_slurm.sh` with one worker", SAME)
def script(lab):
    lab.env = {
        "LAUNCH": "env",
        "TASK": "BuildDataset",
        "IMAGES_DIR": str(lab.photos),
        "CAPTIONS": str(lab.captions),
        "STORE_DIR": str(lab.store),
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
    }
    words = lab.command()
    more = words[words.index("--plugins") :]
    lab.command = lambda *_: ["bash", str(ROOT / "examples" / "dask_slurm.sh"), *more]
    code, said = lab.run()
    assert code == 0, said
    assert open_store(lab.store).hash == lab.hash
    assert not list(lab.store.glob(".dask-*"))
