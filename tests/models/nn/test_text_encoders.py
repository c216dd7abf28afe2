"""Text encoders: the packaged BERT against a restatement in numpy, pooling, starts, faults."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from features.errors import ConfigError, InputError, MissingInput
from models.nn.bert import Bert, BertConfig, bert_folder, load_bert
from models.nn.layers import BiGru
from models.nn.text_encoders import BertText, GruText, copy_rows, pool_pieces

SMALL = BertConfig(
    vocab_size=30,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=16,
)


def numpy_bert(state, config, ids):
    """BERT for one caption without padding, from the definition: float64 throughout."""
    w = {name: value.double().numpy() for name, value in state.items()}

    def dense(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x, name):
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        scaled = (x - mean) / np.sqrt(var + config.layer_norm_eps)
        return scaled * w[f"{name}.LayerNorm.weight"] + w[f"{name}.LayerNorm.bias"]

    def gelu(x):
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    x = w["embeddings.word_embeddings.weight"][ids]
    x = x + w["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings")
    width = config.hidden_size // config.num_attention_heads
    for number in range(config.num_hidden_layers):
        at = f"encoder.layer.{number}."
        q, k, v = (dense(x, f"{at}attention.self.{part}") for part in ("query", "key", "value"))
        heads = []
        for start in range(0, config.hidden_size, width):
            cut = slice(start, start + width)
            scores = q[:, cut] @ k[:, cut].T / math.sqrt(width)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, cut])
        mixed = dense(np.concatenate(heads, -1), f"{at}attention.output.dense")
        x = norm(mixed + x, f"{at}attention.output")
        wide = gelu(dense(x, f"{at}intermediate.dense"))
        x = norm(dense(wide, f"{at}output.dense") + x, f"{at}output")
    return x


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory):
    """A tiny BERT on disk, with the names of released files (a pooler too)."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    state = {f"bert.{name}": value for name, value in Bert(SMALL).state_dict().items()}
    state["bert.pooler.dense.weight"] = torch.zeros(8, 8)
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**vars(SMALL), "hidden_act": "gelu"}))
    return folder


def test_small_bert_equals_numpy_with_and_without_padding(small_folder):
    bert = load_bert(small_folder).eval()
    ids = [2, 9, 17, 4, 3]
    expected = numpy_bert(bert.state_dict(), SMALL, ids)
    pieces = torch.tensor([[*ids, 0, 0], [2, 5, 3, 0, 0, 0, 0]])
    with torch.no_grad():
        out = bert(pieces, pieces > 0)
    np.testing.assert_allclose(out[0, :5].numpy(), expected, atol=1e-5)
    assert (out[0, 5:] == 0).all()


def test_packaged_minilm_equals_numpy():
    bert = load_bert("minilm").eval()
    ids = [101, 1037, 2158, 12216, 1037, 3586, 102]
    expected = numpy_bert(bert.state_dict(), bert.config, ids)
    with torch.no_grad():
        out = bert(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool))
    assert out.shape == (1, 7, 384)
    np.testing.assert_allclose(out[0].numpy(), expected, atol=1e-5)


def test_bert_faults_are_one_clear_line(small_folder, tmp_path):
    with pytest.raises(MissingInput, match=r"no config\.json"):
        bert_folder(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text(json.dumps({**vars(SMALL), "num_hidden_layers": 3}))
    with pytest.raises(MissingInput, match=r"neither model\.safetensors"):
        load_bert(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((small_folder / "model.safetensors").read_bytes())
    with pytest.raises(
        InputError, match=r"16 weights are missing, the first is 'encoder\.layer\.2"
    ):
        load_bert(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json"):
        load_bert(tmp_path)
    long = torch.ones(1, 17, dtype=torch.int64)
    with pytest.raises(InputError, match="17 word pieces"):
        load_bert(small_folder)(long, long > 0)


def test_pool_pieces_averages_each_word():
    pieces = torch.arange(10.0).view(1, 5, 2)
    words = pool_pieces(pieces, torch.tensor([[0, 1, 1, 2, -1]]), 4)
    expected = [[0.0, 1.0], [3.0, 4.0], [6.0, 7.0], [0.0, 0.0]]
    assert words[0].tolist() == expected


def test_bert_text_reads_pieces_into_words(small_folder, make_captions):
    torch.manual_seed(0)
    text = BertText(str(small_folder), 6).eval()
    captions = make_captions(3, pieces=30, words=(3, 6))
    with torch.no_grad():
        words, (pieces, mask) = text(captions), text.encode_pieces(captions)
    assert words.shape == (*captions.words.shape, 6)
    assert ((words != 0).any(-1) == captions.word_mask).all()
    # Word 1 has pieces 1 and 2.
    torch.testing.assert_close(words[0, 1], pieces[0, 1:3].mean(0))
    assert mask.sum(1).tolist() == (2 * (captions.lengths - 2) + 2).tolist()
    with pytest.raises(ConfigError, match="codebook has none"):
        text(make_captions(2))


def test_gru_text_equals_a_hand_written_gru(make_captions):
    torch.manual_seed(0)
    text = GruText(50, 5, 4).double()
    captions = make_captions(3)
    out = text(captions.words, captions.word_mask)
    w = {name: value.detach().numpy() for name, value in text.gru.rnn.named_parameters()}

    def run(vectors, suffix):
        h, states = np.zeros(4), []
        for x in vectors:
            gi = w[f"weight_ih_l0{suffix}"] @ x + w[f"bias_ih_l0{suffix}"]
            gh = w[f"weight_hh_l0{suffix}"] @ h + w[f"bias_hh_l0{suffix}"]
            r, z = (1 / (1 + np.exp(-(gi[k : k + 4] + gh[k : k + 4]))) for k in (0, 4))
            n = np.tanh(gi[8:] + r * gh[8:])
            h = (1 - z) * n + z * h
            states.append(h)
        return np.array(states)

    vectors = text.embed(captions.words).detach().numpy()
    for i, length in enumerate(captions.lengths.tolist()):
        real = vectors[i, :length]
        expected = (run(real, "") + run(real[::-1], "_reverse")[::-1]) / 2
        np.testing.assert_allclose(out[i, :length].detach().numpy(), expected, atol=1e-12)
        assert (out[i, length:] == 0).all()


def test_bigru_accepts_rows_without_words():
    gru = BiGru(3, 4)
    out = gru(torch.randn(2, 5, 3), torch.tensor([0, 2]))
    assert (out[0] == 0).all()
    assert (out[1, :2] != 0).any()
    assert gru(torch.randn(2, 5, 3), torch.zeros(2, dtype=torch.int64)).abs().sum() == 0


def test_init_words_keeps_random_values_of_unknown_words():
    text = GruText(4, 2, 3)
    before = text.embed.weight[2].clone()
    copy_rows(text.embed, np.array([[1, 2], [3, 4], [np.nan, np.nan], [5, 6]]))
    assert text.embed.weight[[0, 1, 3]].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert torch.equal(text.embed.weight[2], before)
    with pytest.raises(ConfigError, match=r"shape \(3, 2\), but the embedding has \(4, 2\)"):
        copy_rows(text.embed, np.zeros((3, 2)))


def test_the_projection_starts_as_xavier_or_as_the_released_hrem():
    torch.manual_seed(0)
    wide = BertConfig(vocab_size=30, hidden_size=768, num_hidden_layers=0)
    xavier, released = BertText(wide, 1024).project, BertText(wide, 1024, xavier=False).project
    assert xavier.weight.std().item() == pytest.approx((2 / (768 + 1024)) ** 0.5, rel=0.01)
    assert released.weight.std().item() == pytest.approx((1 / (3 * 768)) ** 0.5, rel=0.01)
    assert not xavier.bias.any()
    assert released.bias.any()
