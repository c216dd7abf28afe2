"""A linear layer over parts against the same layer over their concatenation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from features.batches import ImageBatch
from models.nn.graphs import GraphConvolution, VisualRows, flat_pairs
from models.nn.parts import RealRows, distinct, linear_of_parts, picked
from models.training import random_images


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [7, 0])
def test_values_and_gradients_are_those_of_the_concatenation(bias, rows):
    torch.manual_seed(0)
    layer, table = nn.Linear(3 + 4 + 4, 5, bias=bias).double(), nn.Embedding(6, 4).double()
    stored = torch.randn(rows, 3).double()  # needs no gradient
    nodes = torch.randn(8, 4).double().requires_grad_()
    ids, at = torch.randint(0, 6, (rows,)), torch.randint(0, 8, (rows,))
    weigh = torch.randn(rows, 5).double()
    found = []
    for run in (
        lambda: linear_of_parts(layer, [(stored, None), distinct(table, ids), picked(nodes, at)]),
        lambda: layer(torch.cat([stored, table(ids), nodes[at]], -1)),
    ):
        out = run()
        (out * weigh).sum().backward()
        learned = [nodes, *layer.parameters(), *table.parameters()]
        found.append([out, *(value.grad.clone() for value in learned)])
        for value in learned:
            value.grad = None
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_parts_that_all_repeat_and_lower_precision():
    torch.manual_seed(0)
    layer, table = nn.Linear(8, 5), nn.Embedding(6, 4)
    ids = torch.tensor([3, 3, 1])
    parts = [distinct(table, ids), distinct(table, ids.flip(0))]
    whole = layer(torch.cat([table(ids), table(ids.flip(0))], -1))
    torch.testing.assert_close(linear_of_parts(layer, parts), whole)
    with torch.autocast("cpu", torch.bfloat16):
        half = linear_of_parts(layer, parts)
    assert half.dtype is torch.bfloat16
    torch.testing.assert_close(half.float(), whole, atol=0.05, rtol=0)


def test_real_rows_there_and_back():
    mask = torch.tensor([[True, False, True], [False, False, False]])
    padded = torch.arange(12.0).view(2, 3, 2)
    rows = RealRows(mask)
    assert rows.flatten(padded).tolist() == [[0.0, 1.0], [4.0, 5.0]]
    assert torch.equal(rows.pad(rows.flatten(padded)), padded * mask.unsqueeze(-1))
    assert rows.place[rows.at].tolist() == [0, 1]


def test_rows_of_images_keep_the_ends_of_relations():
    """Also of an image whose objects are all padded, but whose relations are not."""
    images = random_images(5, objects=(0, 4), relations=(1, 3), seed=0)
    assert (~images.object_mask.any(1)).any()
    rows = VisualRows(images, torch.float64)
    (objects, labels), (unions, predicates) = rows.objects, rows.relations
    assert objects.dtype is unions.dtype is torch.float64
    flat: ImageBatch = images
    ends = flat_pairs(flat.relations, 4)[flat.relation_mask]
    for end in (0, 1):
        assert torch.equal(
            objects[rows.ends[:, end]].float(), flat.objects.flatten(0, 1)[ends[:, end]]
        )
        assert torch.equal(labels[rows.ends[:, end]], flat.labels.flatten()[ends[:, end]])
    assert torch.equal(predicates, flat.predicates[flat.relation_mask])
    layer = GraphConvolution(16, 8).double()
    o, r = layer(flat.objects.double(), flat.unions.double(), flat.relations)
    updated = rows.pad_relations(layer.update_relations(objects, unions, rows.ends))
    torch.testing.assert_close(updated[flat.relation_mask], r[flat.relation_mask])
    padded = rows.pad_objects(layer.update_objects(objects))
    torch.testing.assert_close(padded[flat.object_mask], o[flat.object_mask])
