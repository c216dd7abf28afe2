"""Configuration: precedence, strictness, messages, and the way back to YAML."""

from __future__ import annotations

import subprocess
import sys

import pytest

from features.errors import ConfigError, MissingInput
from models.configuration import config as configs
from models.configuration.config import from_dict, load, to_dict, to_yaml

TEXT = """
model: {name: sgm, options: {embed_dim: 64, margin: 2e-1}}
data: {store: here, batch_size: 32}
optim: {lr: 5e-4, betas: [0.9, 0.99]}
schedule: {milestones: [3, 5]}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "sgm_tiny.yaml"
    path.write_text(TEXT)
    return path


def test_file_over_defaults_and_overrides_over_both(file):
    words = ["--optim.lr", "1e-3", "--run.seed=7", "--run.deterministic"]
    words += ["--model.options.embed_dim", "128", "--model.options.pool", "none"]
    config = load(file, [*words, "--schedule.milestones", "[9]", "--data.vocab", "null"])
    assert config.optim.lr == 1e-3
    assert config.optim.betas == (0.9, 0.99)
    assert config.run.seed == 7
    assert config.run.deterministic is True
    assert config.model.options == {"embed_dim": 128, "margin": 0.2, "pool": "none"}
    assert config.schedule.milestones == (9,)
    assert config.data.batch_size == 32
    assert config.data.vocab is None
    assert config.optim.clip == 2.0
    assert config.run.folder == "runs/sgm_tiny"


def test_a_later_override_wins_and_false_can_be_said(file):
    words = ["--run.deterministic", "--run.deterministic", "false", "--run.seed", "1"]
    config = load(file, [*words, "--run.seed", "2"])
    assert config.run.deterministic is False
    assert config.run.seed == 2


def test_resolved_yaml_reads_back_as_the_same_values(file, tmp_path):
    config = load(file, ["--run.folder", "2026", "--optim.lr_scale", "{text: 0.1}"])
    again = tmp_path / "config.yaml"
    again.write_text(to_yaml(config))
    assert load(again) == config
    assert from_dict(to_dict(config)) == config
    assert config.run.folder == "2026"
    assert config.optim.lr_scale == {"text": 0.1}


@pytest.mark.parametrize(
    "name", ["123_45", "1234_5", "010", "12:30", "0x10", "exp #2", "2026-11-21", "true", "{a}"]
)
def test_names_are_taken_as_they_stand(file, name):
    config = load(file, ["--run.folder", name, "--data.vocab", name, "--data.store", name])
    assert (config.run.folder, config.data.vocab, config.data.store) == (name, name, name)
    assert load(file, ["--data.vocab", "null"]).data.vocab is None
    assert load(file, ["--run.folder", f'"{name}"']).run.folder == name


@pytest.mark.parametrize("empty", ["optim:", "optim: {}", "optim: null"])
def test_an_override_in_an_empty_section(tmp_path, empty):
    path = tmp_path / "c.yaml"
    path.write_text(f"model: {{name: sgm, options: }}\n{empty}\n")
    config = load(path, ["--optim.lr", "1e-3", "--model.options.embed_dim", "8"])
    assert config.optim.lr == 1e-3
    assert config.model.options == {"embed_dim": 8}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--optim.lrr", "1"], "unknown key 'lrr'. Did you mean 'lr'?"),
        (["--optm.lr", "1"], "unknown section 'optm'. Did you mean 'optim'?"),
        (["--lr", "1"], "unknown option 'lr'"),
        (["stray"], "'stray': expected --section.key value"),
        (["--optim.lr", "fast"], "optim.lr is 'fast', but should be float"),
        (["--optim.lr", "-1"], "optim.lr is -1.0, but must be at least 0"),
        (["--optim.ema", "1.5"], "optim.ema is 1.5, but must be at most 1"),
        (["--optim.lr", ".nan"], "must be finite"),
        (["--data.batch_size", "1.5"], "data.batch_size is 1.5, but should be int"),
        (["--data.batch_size", "0"], "must be at least 1"),
        (["--data.batch_size", "true"], "data.batch_size is True, but should be int"),
        (["--run.deterministic", "maybe"], "should be bool"),
        (["--optim.name", "sgd"], "optim.name is 'sgd', not one of adam, adamw"),
        (["--schedule.milestones", "[1, x]"], "schedule.milestones[1] is 'x'"),
        (["--schedule.milestones", "[1"], "is not a YAML value"),
        (["--run.seed", "2026-99-99"], "is not a YAML value"),
        (["--run.seed", "4294967296"], "must be at most"),
        (["--run.threads", "100000"], "must be at most 1024"),
        (["--data.neighbours_from", "-1"], "must be at least 0"),
        (["--model.options.margin", ".nan"], "must be finite"),
        (["--model.name.x", "3"], "so --model.name.x has no place"),
    ],
)
def test_mistakes_on_the_command_line_are_named(file, words, says):
    with pytest.raises(ConfigError) as caught:
        load(file, words)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: {name: sgm}\noptim: {lr: 1, lr: 2}", "'lr' stands there twice"),
        ("model: {name: sgm}\nmodel: {name: gsmn}", "'model' stands there twice"),
        ("model: {name: sgm}\nrun: {sed: 1}", "unknown key 'sed'. Did you mean 'seed'?"),
        ("modl: {name: sgm}", "unknown section 'modl'. Did you mean 'model'?"),
        ("optim: 3", "optim is 3, but it should hold keys and values"),
        ("- 1", "should hold sections"),
        ("a: [", "is not YAML"),
        ("? [a]\n: 1", "is not YAML"),
        ("run: {folder: 2026-99-99}", "is not YAML"),
        ("data: {store: x}", "model.name is missing"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path, text, says):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingInput, match=r"nothing\.yaml"):
        load(tmp_path / "nothing.yaml")


def test_help_knows_every_key():
    text = configs.usage()
    for section, keys in to_dict(configs.Config()).items():
        for key in keys:
            assert f"--{section}.{key}" in text


def test_reading_a_configuration_needs_no_torch():
    code = "import models.configuration.config, sys; models.configuration.config.usage(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
