"""The parser stanza, run with a micro model that is trained here on a small treebank."""

from __future__ import annotations

import json
import logging
import socket
import warnings
from pathlib import Path

import pytest

from features.errors import MissingInput
from features.records import TextGraph
from pipeline.language.spice.triplets import extract
from pipeline.parse import load_parser, parse

TREEBANK = Path(__file__).parent / "data" / "captions.conllu"
pytestmark = pytest.mark.stanza


def read_conllu(path: Path) -> list[TextGraph]:
    """Return the recorded UD parses of a CoNLL-U file."""
    graphs = []
    for block in path.read_text(encoding="utf-8").strip().split("\n\n"):
        lines = block.splitlines()
        text = next(line[9:] for line in lines if line.startswith("# text = "))
        rows = [line.split("\t") for line in lines if not line.startswith("#")]
        graphs.append(
            TextGraph(
                caption=text,
                tokens=tuple(row[1] for row in rows),
                lemmas=tuple(row[2] for row in rows),
                upos=tuple(row[3] for row in rows),
                xpos=tuple(row[4] for row in rows),
                heads=tuple(int(row[6]) - 1 for row in rows),
                deprels=tuple(row[7] for row in rows),
            )
        )
    return graphs


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a tagger and a parser on the treebank; return a folder as of ``stanza.download``."""
    pytest.importorskip("stanza")
    import torch
    from stanza.models import parser, tagger

    torch.set_num_threads(1)
    logging.getLogger("stanza").setLevel(logging.ERROR)
    root = tmp_path_factory.mktemp("stanza")
    bank = str(TREEBANK)
    shared = (
        f"--train_file {bank} --eval_file {bank} --lang en --shorthand en_micro --no_pretrain "
        "--no_char --batch_size 400 --hidden_dim 40 --word_emb_dim 30 --transformed_dim 30 "
        "--num_layers 1 --word_dropout 0.05 --dropout 0.1 --cpu --optim adam "
        "--save_name micro.pt"
    ).split()
    sizes = {
        "pos": "--deep_biaff_hidden_dim 30 --composite_deep_biaff_hidden_dim 20 --lr 0.02 "
        "--max_steps 50 --eval_interval 50",
        "depparse": "--deep_biaff_hidden_dim 40 --deep_biaff_output_dim 30 --tag_emb_dim 20 "
        "--lr 0.02 --max_steps 70 --eval_interval 70 --no_checkpoint",
    }
    with warnings.catch_warnings():  # Stanza's trainers leave files open
        warnings.simplefilter("ignore", ResourceWarning)
        for name, module in (("pos", tagger), ("depparse", parser)):
            module.main([*shared, *sizes[name].split(), "--save_dir", str(root / "en" / name)])
    known = {"tokenize": "micro", "pos": "micro", "lemma": "micro", "depparse": "micro"}
    resources = {
        "url": "http://127.0.0.1:1/",
        "en": {
            "lang_name": "English",
            "packages": {"default": known},
            **{name: {"micro": {}} for name in known},
        },
    }
    (root / "resources.json").write_text(json.dumps(resources))
    return root


@pytest.fixture(scope="module", name="backend")
def _backend(model_dir: Path):
    return load_parser("stanza", model_dir=str(model_dir), gpu=False)


def test_real_pipeline_reproduces_its_treebank(backend) -> None:
    """The micro model was trained on these captions, so most heads and tags are right."""
    gold = read_conllu(TREEBANK)
    found = backend.parse([graph.caption for graph in gold])
    pairs = [
        (a, b)
        for ours, theirs in zip(found, gold, strict=True)
        for a, b in zip(
            zip(ours.xpos, ours.heads, ours.deprels, strict=True),
            zip(theirs.xpos, theirs.heads, theirs.deprels, strict=True),
            strict=True,
        )
    ]
    right = sum(a == b for a, b in pairs)
    assert right / len(pairs) > 0.85
    assert [graph.tokens for graph in found] == [graph.tokens for graph in gold]


def test_nothing_is_downloaded(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.language.parsers.stanza import StanzaParser

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    graph = StanzaParser(model_dir=str(model_dir), gpu=False).parse(["A dog runs."])[0]
    assert graph.tokens == ("A", "dog", "runs", ".")


def test_batches_do_not_change_parses(backend) -> None:
    captions = [graph.caption for graph in read_conllu(TREEBANK)[:7]]
    captions[3:3] = [""]
    together = [(graph.heads, graph.xpos) for graph in backend.parse(captions)]
    alone = [(graph.heads, graph.xpos) for c in captions for graph in backend.parse([c])]
    assert together == alone


def test_two_sentences_keep_their_roots(backend) -> None:
    graph = backend.parse(["A dog holds a ball. A man sits on a bench."])[0]
    assert graph.sentence_starts == (0, 6)
    assert [sum(h == -1 for h in graph.heads[low:high]) for low, high in ((0, 6), (6, 13))] == [
        1,
        1,
    ]
    assert all(head == -1 or head < 6 for head in graph.heads[:6])
    assert all(head == -1 or head >= 6 for head in graph.heads[6:])


def test_parse_returns_triplets(model_dir: Path) -> None:
    graph = parse(
        ["A man in a red hat is holding a ball."], "stanza", model_dir=str(model_dir), gpu=False
    )[0]
    assert ("man", "hold", "ball") in graph.triplets


def test_missing_models(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"resources\.json") as caught:
        load_parser("stanza", model_dir=str(tmp_path))
    assert "stanza.download" in str(caught.value)


def test_rules_agree_on_recorded_ud_and_spacy_parses() -> None:
    """The rules give the same tuples for recorded UD trees and for spaCy's trees."""
    gold = read_conllu(TREEBANK)
    for profile in ("spice", "extended"):
        recorded = extract(gold, profile)
        parsed = parse([graph.caption for graph in gold], profile=profile)
        same = sum(
            set(a.triplets) == set(b.triplets) and set(a.attributes) == set(b.attributes)
            for a, b in zip(recorded, parsed, strict=True)
        )
        assert same >= 0.97 * len(gold)
