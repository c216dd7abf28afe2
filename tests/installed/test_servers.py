"""Blocks that start servers or need other machines: run on this one, or at least checked.

``serve`` runs as printed but for its port, and so does the Dask cluster with TLS. What needs SLURM,
Kubernetes or a GPU is listed in ``CHECKED`` with what stands in for a run.
"""

import ast
import http.cookiejar
import importlib.util
import inspect
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import urllib.request

import pytest
import yaml

from scenestore.program import COMMANDS, GROUPS
from tests.installed.conftest import ROOT, blocks
from website.commands import _program

CLUSTER, HOWTO = "docs/operations/cluster.md", "docs/howto/cluster.md"
PAGES = ["README.md", "docs/index.md", "docs/tutorial.md", CLUSTER]
PAGES += sorted(f"docs/howto/{path.name}" for path in (ROOT / "docs" / "howto").glob("*.md"))
WHEEL = "installs the release; the fixture installs the wheel of this checkout"
FILES = "a list of files, which the tests of the page make"
OPTIONS = "the options of each command are compared with its parser"
CHECKED = {
    ("README.md", "Install", "console"): WHEEL,
    ("docs/index.md", "Ten lines to a report", "console"): WHEEL,
    ("README.md", "From photos to search", "console"): "tests/workflows/test_demo.py runs the "
    "demo, and `make test` is this suite",
    ("docs/howto/index.md", "How do I ...", ""): FILES,
    ("docs/howto/data.md", "Build Flickr30k, Flickr8k or COCO", ""): FILES,
    ("docs/howto/data.md", "Read metadata.jsonl of Hugging Face", ""): FILES,
    ("docs/howto/data.md", "Use COCO with its gold boxes", ""): FILES,
    ("docs/howto/data.md", "Read the tars of img2dataset", ""): FILES,
    ("docs/howto/exchange.md", "Put a store into object storage", "console"): "needs a bucket: "
    "tests/features/reading/test_remote.py reads stores through fsspec",
    (CLUSTER, "Build on a cluster", "console"): OPTIONS,
    (CLUSTER, "Who may connect", "console"): "run on the loopback address by the test below",
    (CLUSTER, "SLURM", "console"): f"needs SLURM: the script exists, and {OPTIONS}",
    (CLUSTER, "SLURM", "python"): "needs SLURM: the block is parsed, and its arguments compared "
    "with dask-jobqueue's where that is installed",
    (CLUSTER, "Kubernetes", "yaml"): "needs Kubernetes: parsed, and the arguments of both programs "
    "compared with their parsers",
    (HOWTO, "Build on a Dask cluster", "console"): OPTIONS,
    (HOWTO, "Use SLURM", "console"): "needs SLURM: the scripts exist",
    (HOWTO, "Train on one GPU or several", "console"): f"needs GPUs: {OPTIONS}",
    (HOWTO, "Check a GPU before a long training", "console"): f"needs a GPU: {OPTIONS}",
}


def fences(page):
    """Return (section, kind, text) of every block of a page."""
    found = []
    parts = re.split(r"^#+ (.*)\n", (ROOT / page).read_text(), flags=re.M)[1:]
    text = [part.split("```")[1::2] for part in parts[1::2]]
    for title, several in zip(parts[::2], text, strict=True):
        for one in several:
            kind, _, body = one.partition("\n")
            found.append((title, kind, body))
    return found


def commands(text):
    """Return the commands of a console block as words, without variables set before them."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    found = []
    for line in lines:
        if line.startswith("$ "):
            words = shlex.split(line[2:], comments=True)
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words = words[1:]
            found.append(words)
    return found


def test_every_block_that_is_not_run_is_listed():
    run = {"sh", "python"}  # by test_pages and below; ``text`` is what they print
    found = {
        (page, title, kind)
        for page in PAGES
        for title, kind, _ in fences(page)
        if kind != "text" and (page == CLUSTER or kind not in run)
    }
    assert found == set(CHECKED)
    assert all(CHECKED.values())


def flags_of(words):
    """Return the options that a command knows; None where it is not ours or Dask's."""
    if words[0] == "dask":
        from distributed.cli import dask_scheduler, dask_worker

        main = {"scheduler": dask_scheduler, "worker": dask_worker}[words[1]].main
        return {flag for one in main.params for flag in (*one.opts, *one.secondary_opts)}
    if words[0] == "luigi":
        from workflows.build.options import BuildOptions, described

        assert words[1:3] == ["--module", "workflows"]
        own = {"--" + one.name.replace("_", "-") for one, _, _ in described(BuildOptions)}
        return own | {"--module", "--local-scheduler", "--scheduler-address", "--jobs"}
    if words[0] == "scenestore":
        places = [*COMMANDS.items(), *(("", place) for place in GROUPS.values())]
        from typer.main import get_command

        for name, place in places:
            if name and name != words[1]:
                continue
            command = get_command(_program(place))
            known = getattr(command, "commands", None) or {name: command}
            if words[1] in known:
                return {flag for one in known[words[1]].params for flag in one.opts}
        raise AssertionError(f"no such command: {words}")
    return None


def test_printed_commands_have_options_that_exist():
    seen = 0
    for page in (CLUSTER, HOWTO):
        for title, kind, text in fences(page):
            if kind != "console":
                continue
            script = "\n".join(line.removeprefix("$ ") for line in text.splitlines())
            subprocess.run(["bash", "-n"], input=script, text=True, check=True)
            for words in commands(text):
                if words[0] == "sbatch":
                    names = [word for word in words if word.startswith("examples/")]
                    assert all((ROOT / name).exists() for name in names)
                    rest = words[words.index(names[0]) + 1 :]
                    words = ["luigi", "--module", "workflows", *rest]
                known = flags_of(words)
                given = {word for word in words if word.startswith("--")}
                if known is not None:
                    settings = {one for one in given if "." in one}  # of a configuration
                    assert given - settings <= known, (page, title, words)
                    seen += len(given)
    assert seen > 15


def test_the_slurm_and_kubernetes_blocks_are_well_formed():
    found = [one for one in fences(CLUSTER) if one[1] in ("python", "yaml")]
    for _, kind, text in found:
        if kind == "python":
            tree = ast.walk(ast.parse(textwrap.dedent(text)))
            calls = [one for one in tree if isinstance(one, ast.Call)]
            calls = [one for one in calls if getattr(one.func, "id", "") == "SLURMCluster"]
            if calls and importlib.util.find_spec("dask_jobqueue"):
                from dask_jobqueue.core import Job, JobQueueCluster

                known = {*inspect.signature(JobQueueCluster.__init__).parameters,
                         *inspect.signature(Job.__init__).parameters}  # fmt: skip
                assert {one.arg for one in calls[0].keywords} <= known
            continue
        spec = yaml.safe_load(text)["spec"]
        for role in ("worker", "scheduler"):
            (container,) = spec[role]["spec"]["containers"]
            program, *words = container["args"]
            assert program == f"dask-{role}"
            given = {word for word in words if word.startswith("--")}
            assert given <= flags_of(["dask", role])
    assert len(found) == 3


@pytest.mark.slow
@pytest.mark.cluster
def test_the_cluster_of_the_page_speaks_tls(tmp_path):
    (text,) = [text for title, _, text in fences(CLUSTER) if title == "Who may connect"]
    script = "\n".join(line.removeprefix("$ ") for line in text.splitlines())
    script = script.replace("0.0.0.0 --port 8786", "127.0.0.1 --port 0 --scheduler-file s.json")
    script = script.replace("dask scheduler", f"{sys.executable} -m distributed.cli.dask_scheduler")
    script = script.replace("dask worker", f"{sys.executable} -m distributed.cli.dask_worker")
    script = script.replace("tls://login1:8786", "--scheduler-file s.json --no-nanny")
    script = re.sub(r"^(.*distributed\.cli.*?)(  #.*)?$", r"\1 2>/dev/null &", script, flags=re.M)
    client = (
        "from distributed import Client\n"
        "with Client(scheduler_file='s.json', timeout=120) as client:\n"
        "    print(client.scheduler.address[:6], client.submit(sum, [1, 2]).result(timeout=120))\n"
    )
    script += f"""
trap 'kill -9 $(jobs -p) 2>/dev/null; wait' EXIT  # workers wait for a scheduler that is gone
until [ -s s.json ]; do sleep .2; done
{sys.executable} -c "{client}"
stat -c %a key.pem
unset DASK_DISTRIBUTED__COMM__TLS__CA_FILE
{sys.executable} -c "{client.replace("120", "5")}" 2>&1 | tail -1
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, env=environment,
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[:2] == ["tls:// 3", "600"], done.stdout + done.stderr
    assert "tls" in lines[2].lower()
    assert "3" not in lines[2:]  # a client without the certificate gets nothing


@pytest.mark.slow
@pytest.mark.cluster
def test_serve_as_printed(installed, trained):
    lines = [line for page in ("docs/howto/serve.md", "docs/howto/attention.md")
             for block in blocks(page) if block.kind == "sh" for line in block.lines]  # fmt: skip
    assert len(lines) == 3
    for line in dict.fromkeys(lines[1:]):
        words = shlex.split(line, comments=True)
        server = subprocess.Popen(
            [installed.bin / words[0], *words[1:], "--port", "0", "--images-dir", "photos"],
            cwd=trained, stdout=subprocess.PIPE, text=True,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            # a background job of a shell ignores Ctrl-C, and so would its children
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        try:
            said = [next(server.stdout) for _ in range(3)]
            url = re.search(r"(http://\S+)\?token=(\S+)", said[-1])
            jar = http.cookiejar.CookieJar()
            opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
            page = opener.open(f"{url[1]}?token={url[2]}").read().decode()
            assert "40 images" in page
            for run in words[words.index("--run") + 1 :]:
                assert f"{run.removeprefix('runs/')}</option>" in page
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(url[1])
        finally:
            server.send_signal(signal.SIGINT)
            try:
                assert server.wait(60) in (0, 130)
            finally:
                server.kill()
                server.stdout.close()
