"""The tasks of docs/howto.md and docs/plugins.md, as printed, from an installed wheel."""

import base64
import re
import shutil
import subprocess
import time

import numpy as np
import pytest

from tests.installed.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
PAGE = (ROOT / "docs" / "howto.md").read_text()


def commands(title):
    """Return the shell blocks of a section."""
    (section,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    found = re.findall(r"^```sh\n(.*?)^```", section, re.M | re.S)
    assert found
    return found


@pytest.fixture(scope="module")
def place(installed, raw, tmp_path_factory):
    """Return a folder with photos, captions, and the store and runs of the first tasks."""
    place = tmp_path_factory.mktemp("howto")
    shutil.copytree(raw, place, dirs_exist_ok=True)
    shutil.copy(place / "photos" / "00.jpg", place / "new.jpg")
    for command in commands("build a store from my photos?"):
        out = installed.works(place, command)
    assert "30" in out
    for command in commands("train a model, stop and resume it?"):
        out = installed.works(place, command)
    assert "resuming at step" in out
    return place


def test_verify_and_repair(installed, place):
    verify, repair = commands("check a store, and repair it?")
    assert "every byte" in installed.works(place, verify)
    shard = next((place / "stores" / "mine").glob("regions-*/*.h5"))
    content = bytearray(shard.read_bytes())
    content[-9] ^= 1
    shard.write_bytes(bytes(content))
    done = installed.run(place, verify)
    assert done.returncode == 1
    assert "--repair" in done.stderr
    installed.works(place, repair)
    assert "every byte" in installed.works(place, verify)


def test_compare_two_runs(installed, place):
    (command,) = commands("compare two runs?")
    out = installed.works(place, command)
    assert "ensemble of 2" in out
    assert "runs/words" in out
    page = (place / "report.html").read_text()
    assert "runs/words" in page or ">words<" in page


def test_search_by_sentence_and_by_photo(installed, place):
    (command,) = commands("search?")
    out = installed.works(place, command)
    assert "new.jpg" in out
    assert "ball" in out


def test_export_for_scan(installed, place):
    (command,) = commands("export a store for SCAN, GSMN or HREM?")
    installed.works(place, command)
    (images,) = (place / "exported").rglob("*test_ims.npy")
    assert np.load(images, mmap_mode="r").shape[1] == 36


def test_import_of_bottom_up_features(installed, place):
    lines = []
    for number in range(30):
        rng = np.random.default_rng(number)
        boxes = np.sort(rng.uniform(0, 60, (4, 2, 2)).astype("<f4"), axis=1).reshape(4, 4)
        features = rng.normal(size=(4, 16)).astype("<f4")
        coded = [base64.b64encode(array.tobytes()).decode() for array in (boxes, features)]
        lines.append("\t".join([f"{number:02d}", "128", "96", "4", *coded]) + "\n")
    (place / "butd.tsv").write_text("".join(lines))
    (command,) = commands("import bottom-up attention features?")
    out = installed.works(place, command)
    assert "150 captions" in out
    assert "triplets" in out


def test_a_killed_training_resumes_to_the_same_weights(installed, place):
    base = "scenestore train sgm_f30k --data.store stores/mine --data.batch_size 4"
    base += " --model.options.embed_dim 16 --data.vectors none --model.options.word_dim 16"
    base += " --run.save_steps 1 --run.epochs 3 --run.deterministic true --run.folder"
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
    process.wait()
    installed.works(place, f"{base} runs/killed")
    weights = [(place / "runs" / name / "best.safetensors").stat() for name in ("calm", "killed")]
    assert weights[0].st_size == weights[1].st_size
    program = (
        "import numpy as np; from safetensors.numpy import load_file as f;"
        "a, b = (f(f'runs/{n}/best.safetensors') for n in ('calm', 'killed'));"
        "print(all(np.array_equal(a[k], b[k]) for k in a))"
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
