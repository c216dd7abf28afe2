"""A killed training, and the page on plug-ins, from an installed wheel."""

import re
import shutil
import signal
import subprocess
import time

import pytest

from tests.installed.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


def test_a_killed_training_resumes_to_the_same_weights(installed, mine, tmp_path):
    place = tmp_path
    shutil.copytree(mine, place, dirs_exist_ok=True)
    base = "scenestore train sgm_f30k --data.store stores/mine --data.batch_size 16"
    base += " --model.options.embed_dim 16 --data.vectors none --model.options.word_dim 16"
    base += " --run.save_steps 1 --run.epochs 2 --run.deterministic true --run.folder"
    installed.works(place, f"{base} runs/calm")
    process = subprocess.Popen(
        [*f"{installed.bin / base} runs/killed".split()],
        cwd=place,
        stdout=subprocess.DEVNULL,
    )
    metrics = place / "runs" / "killed" / "last.pt"
    first = None
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        stamp = metrics.stat().st_mtime_ns if metrics.exists() else None
        first = first or stamp
        if stamp != first:
            break  # a step has been saved
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL  # it had not ended by itself
    installed.works(place, f"{base} runs/killed")
    program = (
        "import numpy as np; from safetensors.numpy import load_file as f;"
        "a, b = (f(f'runs/{n}/best.safetensors') for n in ('calm', 'killed'));"
        "print(set(a) == set(b) and all(np.array_equal(a[k], b[k]) for k in a))"
    )
    assert installed.works(place, f'python -c "{program}"').strip() == "True"


def test_own_plugins(installed, raw, tmp_path):
    """Every command of the page on plug-ins."""
    shutil.copytree(raw, tmp_path, dirs_exist_ok=True)
    for path in (installed.site / "scenestore" / "examples").glob("own_*"):
        shutil.copy(path, tmp_path)
    page = (ROOT / "docs" / "plugins.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S)
    assert len(blocks) == 5
    for block in blocks:
        installed.works(tmp_path, block)
    found = {
        path.parent.name: path.read_text() for path in tmp_path.glob("stores/mine/*/manifest.json")
    }
    for name in ("bright-spot", "nearest", "mean-colour", "plain"):
        assert any(f'"{name}"' in text for text in found.values()), name
    for folder in ("own_model", "luigi"):
        assert (tmp_path / "runs" / folder / "best.safetensors").exists()
