"""``python -m features ls | show | verify | gc``."""

import json
import shutil

import numpy as np
import pytest

from features import open_store
from features.commands.app import app
from features.errors import FormatError, ScenestoreError, StoreError
from features.format.shard import Shard


def test_ls_show_and_verify(tiny_records, capsys):
    records = tiny_records()
    folder = str(records.path.parent)
    assert app.call(["ls", folder]) == 0
    (line,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith("store")]
    assert line.split() == ["store", records.path.name, "12", records.open().hash[:12], "latest"]
    assert app.call(["ls", folder, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stores"][0]["latest"] is True
    assert app.call(["show", folder]) == 0
    shown = capsys.readouterr().out
    assert "12 images (test 4, train 6, val 2; 0 skipped), 60 captions" in shown
    assert "object_features                  <f2  (12, 6, 16)" in shown
    assert app.call(["show", folder, "1002.jpg", "--json"]) == 0
    image = json.loads(capsys.readouterr().out)
    found = records.visual[2]
    assert [thing["label"] for thing in image["objects"]] == list(found.labels)
    assert image["relations"] == [
        [f"{found.labels[s]} {s}", p, f"{found.labels[o]} {o}"] for s, p, o in found.relations
    ]
    assert app.call(["show", folder, "1002.jpg#1"]) == 0
    assert f"caption 1002.jpg#1  {records.texts[11].caption}" in capsys.readouterr().out
    assert app.call(["verify", folder]) == 0
    assert "every byte is as it was written" in capsys.readouterr().out
    with pytest.raises(ScenestoreError, match="unknown image id"):
        app.call(["show", folder, "1002.jp"])


def test_verify_repair_and_gc(tiny_records, capsys):
    records = tiny_records()
    store, folder = records.open(), records.path.parent
    regions = store.group("regions").manifest.folder
    part = Shard(regions, 0).record.parts["union_features"]
    path = regions / "00000.h5"
    data = bytearray(path.read_bytes())
    data[part.offset] ^= 8
    path.unlink()  # read-only
    path.write_bytes(data)
    with pytest.raises(StoreError, match="1 findings"):
        app.call(["verify", str(folder)])
    line = f"{regions / '00000.h5'}: column 'union_features' differs from what was written"
    assert line in capsys.readouterr().out
    assert app.call(["verify", str(folder), "--repair"]) == 0
    assert not (regions / "00000.h5").exists()
    tiny_records(folder=folder)
    assert app.call(["verify", str(folder)]) == 0
    unbound = folder / ("regions-" + "b" * 12)
    shutil.copytree(regions, unbound)
    capsys.readouterr()
    assert app.call(["gc", str(folder), "--yes"]) == 0
    assert f"{unbound}  kept: a build may be writing to it" in capsys.readouterr().out
    assert app.call(["gc", str(folder), "--idle-hours", "0"]) == 0
    said = capsys.readouterr().out
    assert str(unbound) in said
    assert "add --yes" in said
    assert unbound.exists()
    assert app.call(["gc", str(folder), "--idle-hours", "0", "--yes"]) == 0
    assert not unbound.exists()
    np.testing.assert_array_equal(
        open_store(folder).column("boxes"), records.open().column("boxes")
    )


def test_ls_of_a_folder_of_stores(tiny_records, tmp_path, capsys):
    folders = []
    for name in ("a", "b"):
        folders.append(tmp_path / "stores" / name)
        shutil.copytree(tiny_records().path.parent, folders[-1])
    (tmp_path / "stores" / "empty").mkdir()
    assert app.call(["ls", str(tmp_path / "stores")]) == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line.endswith(":")] == [f"{f}:" for f in folders]
    assert said.count("latest") == 2
    assert app.call(["ls", str(tmp_path / "stores"), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["folder"] for one in listed] == [str(folder) for folder in folders]
    with pytest.raises(FormatError, match="no store in this folder or below it"):
        app.call(["ls", str(tmp_path / "stores" / "empty")])
