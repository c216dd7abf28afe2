"""Batches of similar images: their clusters, the same on every rank and after a resume."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from features.errors import ConfigError, UsageError
from models.compute.distributed import World
from models.configuration.config import from_dict
from models.train import train
from models.training.checkpoint import load_last
from models.training.data import Data, make_model, open_data
from models.training.neighbours import (
    embeddings,
    k_means,
    mean_regions,
    neighbour_batches,
    neighbour_order,
)
from models.training.trainer import Trainer


@pytest.fixture
def data(tiny_store, tmp_path):
    store = tiny_store(images=48)

    def make(**changes):
        tree = {
            "model": {"name": "sgm", "options": {"embed_dim": 16, "word_dim": 8}},
            "data": {
                "store": str(store.path),
                "batch_size": 12,
                "neighbours_from": 2,
                "neighbours": 3,
                "clusters": 5,
                **changes,
            },
            "run": {"folder": str(tmp_path / "run"), "epochs": 2, "log_steps": 1},
        }
        return open_data(from_dict(tree))

    return make


ALONE = World()


def batches_of(data, epoch, pairs=0, world=ALONE):
    return [captions.rows.tolist() for _, captions in data.train_batches(epoch, pairs, world)]


def test_a_batch_holds_groups_of_its_clusters(data):
    found = data()
    store = found.store
    points = mean_regions(store, "train", found.codebook)
    rows = store.image_rows("train")
    objects = store.gather("object_features", rows, dtype="float32").sum(1)
    expected = torch.nn.functional.normalize(torch.from_numpy(objects), dim=-1)
    torch.testing.assert_close(points, expected)
    order = neighbour_order(
        store, "train", points, clusters=5, per_cluster=3, batch_size=12, batches=10, seed=4
    )
    assert order.shape == (120,)
    place = {row: at for at, row in enumerate(rows.tolist())}
    labels = k_means(points, 5, seed=4)
    large = {int(c) for c in labels.unique() if (labels == c).sum() >= 3}
    assert len(large) >= 2
    for batch in order.reshape(10, 12):
        images = [place[i] for i in store.image_of_caption(batch).tolist()]
        assert len(set(images)) == 12  # an image stands in a batch once
        counts = np.bincount(labels[images].numpy(), minlength=5)
        assert sum(counts[c] >= 3 for c in large) >= min(4, len(large)) - 1


def test_neighbours_begin_with_their_epoch_and_repeat_exactly(data):
    found = data()
    first = [row for batch in batches_of(found, 0) for row in batch]
    assert sorted(first) == found.store.caption_rows("train").tolist()
    later = batches_of(found, 1)
    assert later == batches_of(data(), 1)
    assert later != batches_of(found, 2)
    assert [len(batch) for batch in later] == [12] * 10
    assert batches_of(found, 1, pairs=48) == later[4:]
    halves = [batches_of(found, 1, world=World(rank, 2)) for rank in range(2)]
    for whole, *parts in zip(later, *halves, strict=True):
        assert sorted(row for part in parts for row in part) == sorted(whole)


def test_a_run_goes_through_both_kinds_of_epochs(data):
    found = data()
    trainer = Trainer(
        found.config, found, make_model(found.config, found), World(), torch.device("cpu")
    )
    trainer.folder.path.mkdir(parents=True)
    assert trainer.fit().step == 20
    with pytest.raises(ConfigError, match=r"12 is not a multiple of data\.neighbours 5"):
        data(neighbours=5).batches_per_epoch(1)


HREM = {
    "name": "hrem",
    "options": {"embed_dim": 16, "word_dim": 8, "heads": 2, "topk": 4, "warm_up": 3},
}


def hrem(store, folder, **changes):
    data = {"store": str(store.path), "batch_size": 12, "neighbours": 3, "clusters": 5}
    data |= {"neighbours_from": 2, "neighbours_by": "embeddings"}
    run = {"folder": str(folder), "epochs": 3, "log_steps": 1, "threads": 1, "deterministic": True}
    return from_dict({"model": HREM, "data": data, "run": {**run, **changes}})


def test_clusters_are_those_of_the_embeddings_and_survive_a_resume(
    tiny_store, tmp_path, monkeypatch
):
    store = tiny_store(images=48)
    seen = []
    clusters = Data.clusters

    def note(self, model, epoch):
        seen.append((epoch, clusters(self, model, epoch)))
        return seen[-1][1]

    monkeypatch.setattr(Data, "clusters", note)
    train(hrem(store, tmp_path / "whole"))
    assert [epoch for epoch, _ in seen] == [1, 2]
    assert not torch.equal(seen[0][1], seen[1][1])  # the weights have changed
    whole = load_last(tmp_path / "whole" / "last.pt")
    seen.clear()
    train(hrem(store, tmp_path / "cut", max_steps=14))  # in the middle of epoch 2
    train(hrem(store, tmp_path / "cut"))
    assert [epoch for epoch, _ in seen] == [1, 2]  # the second run reads those of epoch 2
    cut = load_last(tmp_path / "cut" / "last.pt")
    assert all(torch.equal(cut["model"][name], value) for name, value in whole["model"].items())


def test_clusters_follow_the_weights_and_not_the_stored_features(tiny_store, tmp_path):
    config = hrem(tiny_store(images=48), tmp_path)
    found = open_data(config)
    models = [make_model(config, found) for _ in range(2)]
    torch.manual_seed(1)
    for value in models[1].region_layer.parameters():
        torch.nn.init.normal_(value)
    one, again, other = (found.clusters(model, 1) for model in (models[0], models[0], models[1]))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    points = embeddings(models[1], found.store, "train", found.codebook)
    batches = found.store.image_batches("train", 5, found.codebook, unions=False)
    with torch.no_grad():
        codes = [models[1].eval().encode_images(batch).vectors for batch in batches]
    torch.testing.assert_close(points, torch.cat(codes))


def test_models_without_one_vector_for_an_image_cannot_be_clustered(data):
    found = data(neighbours_by="embeddings")
    with pytest.raises(ConfigError, match=r"Sgm has several vectors.*neighbours_by regions"):
        found.clusters(make_model(found.config, found), 1)


def test_the_last_batch_can_be_left_out(data):
    plain = {"batch_size": 36, "neighbours_from": 0}
    whole, cut = data(**plain), data(**plain, drop_last=True)  # 120 pairs
    assert (whole.batches_per_epoch(1), cut.batches_per_epoch(1)) == (4, 3)
    model = make_model(cut.config, cut)
    trainer = Trainer(cut.config, cut, model, World(), torch.device("cpu"))
    assert (trainer.steps_per_epoch, trainer.total) == (3, 6)
    trainer.folder.path.mkdir(parents=True)
    sizes = []
    loss = model.loss
    model.loss = lambda images, captions, exchange: (
        sizes.append(len(captions.rows)),
        loss(images, captions, exchange),
    )[1]
    trainer.fit()
    assert sizes == [36] * 6
    with pytest.raises(ConfigError, match="120 pairs, which do not fill one batch of 122"):
        data(batch_size=122, neighbours_from=0, drop_last=True).batches_per_epoch(1)


def test_k_means_finds_separate_groups():
    torch.manual_seed(0)
    points = torch.cat([torch.randn(20, 3) * 0.1 + shift for shift in (0.0, 10.0)])
    labels = k_means(points, 2)
    assert len(set(labels[:20].tolist())) == len(set(labels[20:].tolist())) == 1
    assert labels[0] != labels[20]


def test_neighbour_batches_draw_p_clusters_and_k_images_each():
    torch.manual_seed(0)
    points = torch.cat([torch.randn(10, 3) * 0.1 + 10 * i for i in range(4)])
    captions_of = [[5 * i + j for j in range(5)] for i in range(40)]
    sizes = {"clusters": 4, "per_batch": 2, "per_cluster": 6}
    drawn = neighbour_batches(points, captions_of, **sizes, batches=5, seed=1)
    assert drawn == neighbour_batches(points, captions_of, **sizes, batches=5, seed=1)
    for batch in drawn:
        rows = [row for row, _ in batch]
        assert len(rows) == len(set(rows)) == 12
        assert all(caption // 5 == row for row, caption in batch)
    with pytest.raises(UsageError, match=r"larger than the split.*Lower"):
        neighbour_batches(points, captions_of, clusters=4, per_batch=7, per_cluster=6, batches=1)
