"""The fit of the predicate prior: counts, recovery of a rule, saving and loading."""

import numpy as np
import pytest

from features.errors import InputError, MissingInput, UsageError
from features.records import Detections
from pipeline.vision.predictors.prior import (
    CELLS,
    Fitted,
    LabelGraph,
    Prior,
    PriorTable,
    fit_prior,
    geometry_cells,
)


def world(count, seed, *, boxed=True):
    """Fit graphs in which men wear the hat on their head, not the other one; dogs are unrelated."""
    draw = np.random.default_rng(seed)
    graphs = []
    for _ in range(count):
        x, y = draw.uniform(0, 200, 2)
        man = [x, y, x + 50, y + 150]
        hat = [x + 12, y - 5, x + 38, y + 15]
        far = draw.uniform(300, 400, 2)
        other = [*far, *(far + 30)]
        dog = [*(far - 80), *(far - 40)]
        boxes = np.array([man, hat, other, dog], np.float32) if boxed else None
        graphs.append(LabelGraph(("man", "hat", "hat", "dog"), ((0, "wearing", 1),), boxes))
    return graphs


@pytest.fixture(scope="module")
def table():
    return fit_prior(world(60, 0), "a made world", ["eating"])


def test_counts_by_hand(table):
    man, hat = table.labels.index("man"), table.labels.index("hat")
    assert table.pairs[man, hat] == 120  # two hats in each of 60 graphs
    assert table.counts[man, hat, table.predicates.index("wearing")] == 60
    assert table.counts.sum() == 60
    assert table.pairs.sum() == 60 * 12
    assert table.predicates == ("eating", "wearing")


def test_back_off_is_a_distribution_below_one(table):
    chance = np.exp(table.log_pairs).sum(2)
    assert (chance > 0).all()
    assert (chance < 1).all()


def test_the_rule_is_recovered(table):
    for graph in world(20, 1):
        found = Detections(graph.boxes, graph.labels, np.ones(4, np.float32), (500, 500))
        pairs, best, chance = table.best_predicates(found)
        first = chance.argmax()
        assert pairs[first].tolist() == [0, 1]
        assert table.predicates[best[first]] == "wearing"
        assert chance[first] > 0.9
        assert np.delete(chance, first).max() < 0.3


def test_captions_have_no_geometry():
    table = fit_prior(world(40, 0, boxed=False))
    assert all(not part.any() for part in table.geometry)
    found = Detections(
        np.zeros((3, 4), np.float32), ("man", "hat", "dog"), np.ones(3, np.float32), (9, 9)
    )
    pairs, _, chance = table.best_predicates(found)
    assert pairs[chance.argmax()].tolist() == [0, 1]
    # Half of the pairs (man, hat) are related.
    assert 0.3 < chance.max() < 0.7


def test_a_file_keeps_the_table(table, tmp_path):
    table.save(tmp_path / "t.npz")
    again = PriorTable.load(tmp_path / "t.npz")
    assert again.labels == table.labels
    assert again.about == "a made world"
    np.testing.assert_array_equal(again.counts, table.counts)
    graph = world(1, 5)[0]
    found = Detections(graph.boxes, graph.labels, np.ones(4, np.float32), (500, 500))
    np.testing.assert_allclose(
        again.best_predicates(found)[2], table.best_predicates(found)[2], rtol=0.02, atol=1e-4
    )
    first = (tmp_path / "t.npz").read_bytes()
    table.save(tmp_path / "t.npz")
    assert (tmp_path / "t.npz").read_bytes() == first


def test_bad_files(tmp_path):
    with pytest.raises(MissingInput):
        PriorTable.load(tmp_path / "nowhere.npz")
    (tmp_path / "text.npz").write_text("not a table")
    with pytest.raises(InputError, match=r"text\.npz"):
        PriorTable.load(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(InputError, match="Fit it again"):
        PriorTable.load(tmp_path / "other.npz")


def test_tables_that_do_not_fit(table, tmp_path):
    path = tmp_path / "table.npz"
    table.save(path)
    arrays = dict(np.load(path))
    numbers = [name for name, value in arrays.items() if value.dtype.kind == "f"]
    cases = [(name, arrays[name] * np.nan) for name in numbers]
    cases += [(name, arrays[name][..., :-1]) for name in (*numbers, "labels", "predicates")]
    cases += [("labels", arrays["labels"].astype("S")), ("counted", arrays["counted"][:, :2])]
    cases += [("labels", arrays["labels"][[0] * len(table.labels)])]
    for name, value in cases:
        np.savez(path, **(arrays | {name: value}))
        with pytest.raises(InputError, match=r"table\.npz: not a table .* Fit it again"):
            PriorTable.load(path)


def test_fitting_needs_relations():
    with pytest.raises(UsageError, match="at least two"):
        fit_prior(world(1, 0))
    with pytest.raises(UsageError, match="apart"):
        fit_prior([*world(2, 0), *world(2, 0, boxed=False)])


def test_cells_stay_in_range_and_mirror():
    draw = np.random.default_rng(3)
    low = draw.uniform(0, 100, (30, 2))
    boxes = np.concatenate([low, low + draw.uniform(0, 90, (30, 2))], 1).astype(np.float32)
    cells = geometry_cells(boxes)
    for cell, count in zip(cells, CELLS, strict=True):
        assert cell.min() >= 0
        assert cell.max() < count
    first, second = np.divmod(cells[0], 6)
    np.testing.assert_array_equal(first, second.T)


def mixed(count, seed):
    """Return graphs in which one relation in four is "holding" instead of "wearing"."""
    holding = np.random.default_rng(seed).random(count) < 0.25
    return [
        graph._replace(relations=((0, "holding" if held else "wearing", 1),))
        for graph, held in zip(world(count, seed), holding, strict=True)
    ]


def test_exact_scores_are_those_of_the_predicate():
    data = mixed(200, 3)
    related, exact = (fit_prior(data, exact=flag) for flag in (False, True))
    man, hat = Detections(data[0].boxes, data[0].labels, np.ones(4, np.float32), (500, 500)), (0, 1)
    chances = []
    for table in (related, exact):
        pairs, best, chance = table.best_predicates(man)
        row = np.flatnonzero((pairs == hat).all(1))[0]
        assert table.predicates[best[row]] == "wearing"
        chances.append(chance[row])
    assert chances[0] > 0.9
    assert chances[1] == pytest.approx(0.75, abs=0.1)


def test_fitted_relates_each_pair_once_and_no_object_with_itself(table, tmp_path):
    table.save(tmp_path / "table.npz")
    graph = world(1, 7)[0]
    twice = np.concatenate([graph.boxes, graph.boxes[:1] + 1])  # another name of the man
    found = Detections(twice, (*graph.labels, "man"), np.ones(5, np.float32), (500, 500))
    relations, scores = Fitted(str(tmp_path / "table.npz"), min_score=0).predict(found, 100)
    pairs = [frozenset((subject, target)) for subject, _, target in relations]
    assert len(pairs) == len(set(pairs))
    assert frozenset((0, 4)) not in pairs
    assert {relations[0], relations[1]} == {(0, "wearing", 1), (4, "wearing", 1)}
    assert (np.diff(scores) <= 0).all()
    best = Fitted(str(tmp_path / "table.npz"), min_score=0.5).predict(found, 100)[1]
    assert (best >= 0.5).all()


def test_packaged_tables_differ():
    assert Fitted().identity()["table"] != Prior().identity()["table"]
    assert "ride" in Fitted().table.predicates
