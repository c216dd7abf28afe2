"""Files of fit-labels and fit-relations: whole or not at all."""

import resource

import pytest

from features.errors import InputError, MissingInput, WriteError
from pipeline.vision.label_head import PACKAGED as PACKAGED_HEAD
from pipeline.vision.label_head import LabelHead
from pipeline.vision.predictors.prior import PACKAGED, PriorTable

KINDS = [(LabelHead, PACKAGED_HEAD), (PriorTable, PACKAGED)]


@pytest.mark.parametrize(("kind", "packaged"), KINDS)
def test_a_full_disk_keeps_the_earlier_file(kind, packaged, tmp_path):
    path, fitted = tmp_path / "fitted.npz", kind.load(packaged)
    path.write_bytes(b"earlier")
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, kept[1]))
    try:
        with pytest.raises(WriteError, match=r"fitted\.npz: cannot be written \(File too large\)"):
            fitted.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
    assert path.read_bytes() == b"earlier"
    assert [one.name for one in tmp_path.iterdir()] == ["fitted.npz"]
    fitted.save(tmp_path / "named")  # without a suffix that numpy would add
    kind.load(tmp_path / "named")


@pytest.mark.parametrize(("kind", "packaged"), KINDS)
def test_a_damaged_file_is_named(kind, packaged, tmp_path):
    path = tmp_path / "fitted.npz"
    raw = packaged.read_bytes()
    for damaged in (b"", raw[:-99], raw[:5000] + b"\xff" * 40 + raw[5040:], b"\x93NUMPY"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"fitted\.npz: not a .* Fit it again"):
            kind.load(path)
    path.unlink()
    with pytest.raises(MissingInput, match=r"fitted\.npz: no such file"):
        kind.load(path)
