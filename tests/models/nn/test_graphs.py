"""Word graphs by hand, and the graph convolution against LGSGM."""

from __future__ import annotations

import torch

from models.nn.graphs import GraphConvolution, text_adjacency


def test_adjacency_is_undirected_with_self_loops_and_no_pads():
    heads = torch.tensor([[-1, 2, -1, 2, -1, 0]])
    mask = torch.tensor([[True] * 5 + [False]])
    found = text_adjacency(heads, mask)[0].nonzero().tolist()
    loops = [[i, i] for i in range(5)]
    assert sorted(found) == sorted([*loops, [1, 2], [2, 1], [2, 3], [3, 2]])
    assert text_adjacency(heads, mask, dense=True).sum() == 25


def test_graph_convolution_matches_lgsgm(golden):
    z = golden("lgsgm")
    layer = GraphConvolution(48, 32, "none")
    state = {
        "g_o.weight": z["param.gcn.gcn_node.linear.0.weight"],
        "g_o.bias": z["param.gcn.gcn_node.linear.0.bias"],
        "g_r.weight": z["param.gcn.gcn_edge.linear.0.weight"],
        "g_r.bias": z["param.gcn.gcn_edge.linear.0.bias"],
    }
    layer.load_state_dict(state)

    def after(x, part):
        """LGSGM ends each fully connected layer with swish and BatchNorm, in either order."""
        at = f"param.gcn.{part}.batchnorm.0."
        norm = torch.nn.functional.batch_norm(
            x, z[at + "running_mean"], z[at + "running_var"], z[at + "weight"], z[at + "bias"]
        )
        return norm * norm.sigmoid()

    with torch.no_grad():
        o, r = layer(z["in.gcn_obj"][None], z["in.gcn_pred"][None], z["in.gcn_edges"][None])
    torch.testing.assert_close(after(o[0], "gcn_node"), z["out.gcn_obj"], atol=1e-5, rtol=0)
    torch.testing.assert_close(after(r[0], "gcn_edge"), z["out.gcn_pred"], atol=1e-5, rtol=0)
