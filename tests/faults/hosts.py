"""Two hosts, as network namespaces with names and clocks of their own, build one store."""

import contextlib
import os
import shutil
import signal
import subprocess
import time

import pytest

from features import open_store
from tests.faults.clusters import AREA, Cluster, certify
from tests.faults.lab import orphans
from tests.faults.table import SAME, case

SKEWED = "import time\nnow = time.time\ntime.time = lambda: now() + {days} * 86400\n"


class Hosts:
    """Two network namespaces that a cable joins."""

    def __init__(self):
        tag = f"{os.getpid() % 10_000:04d}"
        self.names = (f"ss{tag}a", f"ss{tag}b")
        self.addresses = ("10.77.0.1", "10.77.0.2")

    def __enter__(self):
        if shutil.which("ip") is None:
            pytest.skip("no iproute2 to make network namespaces with")
        one, other = self.names
        if self._run("netns", "add", one):
            pytest.skip("network namespaces are not allowed here")
        try:
            self._must("netns", "add", other)
            self._must(
                "link", "add", "v0", "netns", one, "type", "veth", "peer", "name", "v0", "netns",
                other,
            )  # fmt: skip
            for name, address in zip(self.names, self.addresses, strict=True):
                self._must("-n", name, "addr", "add", f"{address}/24", "dev", "v0")
                for link in ("lo", "v0"):
                    self._must("-n", name, "link", "set", link, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for name in self.names:
            self._run("netns", "delete", name)

    def _run(self, *words):
        return subprocess.run(["ip", *words], capture_output=True).returncode

    def _must(self, *words):
        assert self._run(*words) == 0, words

    def inside(self, at, *command):
        """Return a command that runs another one on a host with a name of its own."""
        named = 'hostname "$1"; shift; exec "$@"'
        inner = ["unshare", "--uts", "sh", "-c", named, "sh", f"host-{at}", *map(str, command)]
        return ["ip", "netns", "exec", self.names[at], *inner]


class TwoHosts(Cluster):
    """A scheduler and a worker on the first host, and a worker on the second."""

    def __init__(self, lab, hosts):
        super().__init__(lab, "tls", workers=2)
        self.hosts = hosts
        self.address = f"tls://{hosts.addresses[0]}:{self.port}"
        self.at = 0

    def _start(self, program, *words, cwd=None, **env):
        at, kept = self.at, dict(self.env)
        if program == "dask_worker":
            self.at += 1
            clock = self.lab.folder / f"clock{at}"  # before all other modules
            clock.mkdir()
            (clock / "sitecustomize.py").write_text(SKEWED.format(days=3 * at))
            self.env["PYTHONPATH"] = f"{clock}{os.pathsep}{self.lab.environment()['PYTHONPATH']}"
            self.env["HDF5_USE_FILE_LOCKING"] = ("TRUE", "FALSE")[at]
        try:
            return super()._start(program, *words, cwd=cwd)
        finally:
            self.env = kept

    def command(self, *words):
        return self.hosts.inside(min(self.at, 1) if self.at else 0, *words)


@contextlib.contextmanager
def two_hosts(lab):
    """Start the cluster; the builds of the laboratory run on the first host."""
    certify(lab)
    with Hosts() as hosts, TwoHosts(lab, hosts) as cluster:
        command = lab.command
        lab.command = lambda *more: hosts.inside(0, *command(*more))
        yield cluster


def built(lab, build):
    code, said = lab.end(build)
    assert code == 0, said
    assert open_store(lab.store).hash == lab.hash
    shutil.rmtree(lab.store)


@case(AREA, "none: two hosts with TLS, clocks three days apart, other HDF5 locks", SAME)
def both(lab):
    with two_hosts(lab) as cluster:
        built(lab, lab.start("--scheduler-address", cluster.address, FAULTY_SECONDS="0.02"))


@case(AREA, "SIGKILL to all workers of one of two hosts: the far host goes on alone", SAME)
def far_host_alone(lab):
    with two_hosts(lab) as cluster:
        near = cluster.nannies[0].pid
        build = lab.start("--scheduler-address", cluster.address, FAULTY_SECONDS="0.1")
        while build.poll() is None and not list(lab.store.glob("visual-*/*.attempt.*")):
            time.sleep(0.05)  # until a worker is at the first photo
        os.killpg(near, signal.SIGKILL)
        assert not orphans(near)
        built(lab, build)  # the same run, or
        built(lab, lab.start("--scheduler-address", cluster.address))  # one from the start
