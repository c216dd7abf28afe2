"""The published configurations say what papers and released code say."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch

import models
from models.configuration.files import load, shipped
from models.evaluation.scoring import computing
from models.nn.bert import BertConfig
from models.nn.text_encoders import BertText
from models.papers.hrem import Hrem
from models.training.optim import make_optimizer, set_rate
from models.training.trainer import Trainer

PUBLISHED = {
    name: path for name, path in shipped().items() if re.search("_(f30k|coco)$", name)
}  # with the baselines
PAPERS = {name: path for name, path in PUBLISHED.items() if path.parent.name != "baselines"}


def names(pattern=""):
    return pytest.mark.parametrize("name", [name for name in PAPERS if re.match(pattern, name)])


def test_they_are_all_here():
    assert len(PAPERS) == 24
    assert len(PUBLISHED) == 32


@pytest.mark.parametrize(
    "name", [name for name in PUBLISHED if not name.startswith(("clip", "tfidf"))]
)
def test_training_is_in_float32_on_every_device(name, monkeypatch):
    config = load(name)
    assert config.run.amp == "none"
    monkeypatch.setattr("models.training.trainer.make_optimizer", lambda *_: None)
    data = type("Data", (), {"batches_per_epoch": lambda self, world: 1})()
    world = type("World", (), {"size": 1})()
    trainer = Trainer(config, data, torch.nn.Linear(1, 1), world, torch.device("cuda"))
    assert trainer.half is None
    assert not trainer.scaler.is_enabled()
    asked = load(name, ["--run.amp", "bf16"])
    assert Trainer(asked, data, torch.nn.Linear(1, 1), world, torch.device("cuda")).half is not None


def test_float32_scores_do_not_use_tf32():
    before = torch.backends.cudnn.allow_tf32
    for precision, allowed in (("float32", False), ("tf32", True)):
        with computing(precision, torch.device("cpu")):
            assert torch.backends.cudnn.allow_tf32 is allowed
    assert torch.backends.cudnn.allow_tf32 is before


@names("hrem_bert|racg_bert")
def test_bert_learns_at_a_tenth_of_the_rate(name):
    """As in the released optimiser of HREM: all parameters of the BERT, and no others."""
    config = load(name)
    sizes = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=9,
    )  # fmt: skip
    options = models.build_options("hrem", image_dim=8, embed_dim=8, heads=2, text_encoder="bert")
    model = Hrem(options, text=BertText(sizes, 8))
    optimizer = make_optimizer(model, config.optim)
    set_rate(optimizer, config.optim.lr)
    rates = {
        id(value): group["lr"] for group in optimizer.param_groups for value in group["params"]
    }
    for parameter, value in model.named_parameters():
        factor = 0.1 if parameter.startswith("text.bert.") else 1.0
        assert rates[id(value)] == pytest.approx(factor * config.optim.lr), parameter


@names("sgm|cfsgr")
def test_the_hardest_negative_counts_from_the_first_epoch(name):
    config = load(name)
    options = models.build_options(config.model.name, **config.model.options)
    assert config.schedule.easy_epochs == 0
    assert options.hard_negatives


@names()
def test_only_the_released_loader_of_hrem_drops_the_last_batch(name):
    assert load(name).data.drop_last == name.startswith("hrem")


@names("cfsgr")
def test_the_networks_of_cfsgr_are_trained_one_by_one(name):
    """In one run they would share the norm that clipping limits."""
    assert load(name).model.options["part"] in ("coarse", "fine_object", "fine_predicate")


@names("racg|cfsgr")
def test_settings_cite_their_section(name):
    """Experiments are section IV of RACG; the setup of CFSGR is section 4.2."""
    text = PAPERS[name].read_text()
    assert not re.search(r"(?<!I)V-B|# 4\.1", text)
    assert re.search("IV-B" if name.startswith("racg") else r"# 4\.2", text)
    if re.match("cfsgr.*coco", name):
        assert "which the paper does not evaluate" in text


@names("racg_bert")
def test_racg_with_bert_says_that_it_reads_no_part_of_speech(name):
    options = load(name).model.options
    assert options["bert_tags"] is False
    assert "tag_dim" not in options


@names()
def test_options_that_a_configuration_names_exist_in_the_model(name):
    config = load(name)
    known = {
        field.name for field in dataclasses.fields(models.registry.options_class(config.model.name))
    }
    assert set(config.model.options) <= known
