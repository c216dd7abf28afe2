"""A small demo: scenes and photos become a report, and the second run builds nothing."""

import pytest

import features

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_the_demo_writes_a_report(tmp_path, run_luigi):
    options = {"--demo-dir": tmp_path / "demo", "--images": 30, "--jobs": 2}
    code, out, err = run_luigi("Demo", options)
    assert code == 0, err
    report = tmp_path / "demo" / "report.html"
    assert f"report: {report}" in out
    page = report.read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert "SGM" in page
    store = features.open_store(tmp_path / "demo" / "store")
    assert store.manifest["dataset"] == "scenes"
    assert len(store.images) == 30
    code, out, _ = run_luigi("Demo", options)
    assert code == 0
    assert out.count("nothing to build") == 2  # photos and scenes
