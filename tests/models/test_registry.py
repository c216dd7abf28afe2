"""The registry of models: names, options, suggestions for misspelt names, light import."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from types import SimpleNamespace
from typing import Literal

import pytest

import models
from features.errors import ConfigError, UnknownName, UsageError
from models import registry


@dataclasses.dataclass(frozen=True)
class ToyOptions:
    """Options of every kind that models use."""

    vocab_size: int = 5
    image_dim: int = 4
    scale: float = 1.0
    top: float | None = None
    mode: Literal["a", "b"] = "a"
    flag: bool = False
    name: str = "x"
    sizes: tuple[int, ...] = (1,)


@pytest.fixture
def toy():
    @models.register("toy", ToyOptions)
    class Toy:
        def __init__(self, options):
            self.options = options

    yield Toy
    del registry.MODELS._entries["toy"]


def test_lists_the_models_of_the_contract():
    baselines = {"scan", "vse", "tfidf", "clip"}
    assert {"cfsgr", "gsmn", "hrem", "racg", "sgm"} | baselines <= set(models.list_models())
    assert models.list_models() == sorted(models.list_models())


def test_importing_models_loads_no_torch():
    code = "import sys, models; models.list_models(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_create_checks_names_types_and_choices(toy):
    model = models.create("toy", scale=2, sizes=[3, 4], top=1, flag=True)
    assert model.options == ToyOptions(scale=2.0, sizes=(3, 4), top=1.0, flag=True)
    assert isinstance(model.options.scale, float)
    assert models.create("toy", top=None).options == ToyOptions()
    with pytest.raises(
        ConfigError, match=r"scales: unknown option 'scales'. Did you mean 'scale'\?"
    ):
        models.create("toy", scales=2)
    with pytest.raises(ConfigError, match="mode is 'c', but should be 'a' or 'b'"):
        models.create("toy", mode="c")
    for wrong in (
        {"vocab_size": "5"},
        {"vocab_size": True},
        {"flag": 1},
        {"scale": "2"},
        {"scale": True},
    ):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is .* but should be"):
            models.create("toy", **wrong)
    with pytest.raises(UnknownName, match="Did you mean 'sgm'"):
        models.create("sgn")


def test_a_name_is_taken_once(toy):
    class Other:
        pass

    with pytest.raises(UsageError, match="model 'toy' is already"):
        models.register("toy", ToyOptions)(Other)
    assert models.register("toy", ToyOptions)(toy) is toy  # a module that is imported twice


def test_options_for_fills_sizes_from_the_data(toy):
    store = SimpleNamespace(row_shape=lambda name: (36, 7) if name == "object_features" else None)
    book = SimpleNamespace(words=range(11), labels=range(3), predicates=range(2), tags=range(9))
    assert models.options_for("toy", store, book).image_dim == 7
    options = models.options_for("toy", store, book, 6, scale=3.0, vocab_size=12)
    assert options == ToyOptions(vocab_size=12, image_dim=6, scale=3.0)
    sgm = models.options_for("sgm", store, book)
    assert (sgm.vocab_size, sgm.n_labels, sgm.n_predicates, sgm.n_tags) == (11, 3, 2, 9)


@pytest.mark.parametrize("name", sorted(registry.MODELS.built_in))
def test_every_options_class_has_the_data_fields(name):
    kind = models.options_class(name)
    fields = {item.name: item.default for item in dataclasses.fields(kind)}
    for key in ("image_dim", "vocab_size", "n_labels", "n_predicates", "n_tags"):
        assert isinstance(fields[key], int), key
    assert kind.__dataclass_params__.frozen
