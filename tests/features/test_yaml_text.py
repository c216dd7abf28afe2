"""YAML of strangers: bombs end in one clear error, quickly."""

import pytest

from features.errors import ConfigError
from features.yaml_text import parse_yaml
from models.configuration import load
from pipeline.vision.onnx_spec import read_spec

ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
BOMBS = {
    "aliases": ALIASES,
    "a value in itself": "a: &a [*a]",
    "deep lists": "a: " + "[" * 5_000 + "]" * 5_000,
    "deep mappings": "".join(f"{' ' * n}a:\n" for n in range(60)) + " " * 60 + "b",
    "a long number": "a: " + "9" * 10_000,
    "a long text": "a: " + "x" * (2 << 20),
    "a key twice": "a: 1\na: 2\n",
    "a key twice below": "a: {b: 1, b: 2}",
    "a date that is none": "a: 2020-99-99",
    "no YAML": "a: [",
    "Python": "a: !!python/object/apply:os.system [id]",
    "a list as a key": "{[a]: 1}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name, tmp_path):
    with pytest.raises(ConfigError, match="here"):
        parse_yaml(BOMBS[name], "here")
    path = tmp_path / "c.yaml"
    path.write_text(BOMBS[name])
    for read in (load, read_spec):
        with pytest.raises(ConfigError, match=r"c\.yaml"):
            read(path)


def test_plain_yaml():
    text = "base: &base {lr: 1e-4, name: x}\nother:\n  <<: *base\n  lr: 2\n"
    assert parse_yaml(text, "f") == {
        "base": {"lr": "1e-4", "name": "x"},
        "other": {"lr": 2, "name": "x"},
    }
    assert parse_yaml("", "f") is None
