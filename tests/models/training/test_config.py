"""Configuration: precedence, strictness, messages, YAML and shipped files."""

from __future__ import annotations

import subprocess
import sys

import pytest

from features.errors import ConfigError, MissingInput
from models.configuration import config as configs
from models.configuration.config import from_dict, to_dict, to_yaml
from models.configuration.files import find, load, shipped

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


def test_overrides_take_precedence_over_the_file_and_the_file_over_defaults(file):
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


def test_a_later_override_wins_and_a_flag_can_be_false(file):
    words = ["--run.deterministic", "--run.deterministic", "false", "--run.seed", "1"]
    config = load(file, [*words, "--run.seed", "2"])
    assert config.run.deterministic is False
    assert config.run.seed == 2


@pytest.mark.parametrize("words", ["labels,unions", "[labels, unions]"])
def test_a_list_of_names_can_be_separated_by_commas(file, words):
    assert load(file, ["--data.without", words]).data.without == ("labels", "unions")


def test_yaml_round_trip(file, tmp_path):
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
def test_names_that_yaml_would_convert_stay_text(file, name):
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
        (["--optim.lr", "fast"], "optim.lr is 'fast', but should be a valid number"),
        (["--optim.lr", "-1"], "optim.lr is -1, but should be greater than or equal to 0"),
        (["--optim.ema", "1.5"], "optim.ema is 1.5, but should be less than or equal to 1"),
        (["--optim.lr", ".nan"], "should be a finite number"),
        (["--data.batch_size", "1.5"], "data.batch_size is 1.5, but should be a valid integer"),
        (["--data.batch_size", "0"], "should be greater than or equal to 1"),
        (["--data.batch_size", "true"], "data.batch_size is True, but should be a valid integer"),
        (
            ["--run.deterministic", "maybe"],
            "run.deterministic is 'maybe', but should be a valid boolean",
        ),
        (["--optim.name", "sgd"], "optim.name is 'sgd', but should be 'adam' or 'adamw'"),
        (["--schedule.milestones", "[1, x]"], "schedule.milestones[1] is 'x'"),
        (["--schedule.milestones", "[1"], "is not a YAML value"),
        (["--run.seed", "2026-99-99"], "is not a YAML value"),
        (["--run.seed", "4294967296"], "should be less than or equal to 4294967295"),
        (["--run.threads", "100000"], "should be less than or equal to 1024"),
        (["--data.neighbours_from", "-1"], "should be greater than or equal to 0"),
        (["--model.options.margin", ".nan"], "should be a finite number"),
        (["--model.name.x", "3"], "so --model.name.x cannot be set"),
    ],
)
def test_errors_of_overrides_name_key_and_value(file, words, says):
    with pytest.raises(ConfigError) as caught:
        load(file, words)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: {name: sgm}\noptim: {lr: 1, lr: 2}", "'lr' is listed twice"),
        ("model: {name: sgm}\nmodel: {name: gsmn}", "'model' is listed twice"),
        ("model: {name: sgm}\nrun: {sed: 1}", "unknown key 'sed'. Did you mean 'seed'?"),
        ("modl: {name: sgm}", "unknown section 'modl'. Did you mean 'model'?"),
        ("optim: 3", "optim is 3, but should hold keys and values"),
        ("- 1", "should contain sections"),
        ("a: [", "is not YAML"),
        ("? [a]\n: 1", "is not YAML"),
        ("run: {folder: 2026-99-99}", "is not YAML"),
        ("data: {store: x}", "model.name is missing"),
    ],
)
def test_errors_in_the_file_name_file_and_key(tmp_path, text, says):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingInput, match=r"nothing\.yaml"):
        load(tmp_path / "nothing.yaml")


def test_help_lists_every_key():
    text = configs.describe_options()
    for section, keys in to_dict(configs.Config()).items():
        for key in keys:
            assert f"--{section}.{key}" in text


def test_reading_a_configuration_needs_no_torch():
    code = "import sys; from models.configuration.files import load; load('sgm_f30k'); "
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_shipped_configuration_is_found_by_name_and_by_its_old_path(tmp_path, monkeypatch):
    files = shipped()
    assert "small" not in files  # changes for CompareModels, not a run
    assert len(files) == 46
    assert find("sgm_f30k") == find("configs/sgm_f30k.yaml") == files["sgm_f30k"]
    assert load("sgm_f30k").run.folder == "runs/sgm_f30k"
    with pytest.raises(MissingInput, match=r"unknown configuration 'sgm_f30'. Did you mean"):
        find("sgm_f30")
    with pytest.raises(MissingInput, match=r"elsewhere/sgm_f30k\.yaml: there is no such"):
        find("elsewhere/sgm_f30k.yaml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sgm_f30k").write_text("model: {name: vse}")
    assert load("sgm_f30k").model.name == "vse"  # a file comes first


def test_every_shipped_configuration_can_be_read():
    for name in shipped():
        load(name)


def test_a_value_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        configs.Config().optim.lr = 1.0
