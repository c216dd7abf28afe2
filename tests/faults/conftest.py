"""The laboratory: one data set for all cases, built undisturbed once."""

import shutil

import pytest

from features import open_store
from tests.faults.lab import Lab


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("undisturbed"))
    lab.write()
    code, said = lab.run()
    assert code == 0, said
    lab.hash = open_store(lab.store).hash
    return lab


@pytest.fixture
def lab(undisturbed, tmp_path):
    """Return a laboratory with copies of the photos and no store."""
    made = Lab(tmp_path)
    shutil.copytree(undisturbed.photos, made.photos)
    shutil.copy(undisturbed.captions, made.captions)
    made.hash, made.built = undisturbed.hash, undisturbed.store
    return made
