"""Labels of regions: proposals, the fitted head, its choice of objects, and the detector."""

import dataclasses

import numpy as np
import pytest

from features.errors import InputError, MissingInput, UsageError
from features.records import Detections
from pipeline.vision.boxes import iou_matrix
from pipeline.vision.detection import create_detector
from pipeline.vision.detectors.regions import PLACES, Regions
from pipeline.vision.extraction import extractor_registry
from pipeline.vision.extractors.labelled import LabelledFeatures
from pipeline.vision.folds import WEIGHTS, Folds, image_keys
from pipeline.vision.graph_builder import rules_for
from pipeline.vision.images import LazyImage
from pipeline.vision.label_fitting import (
    FitOptions,
    GoldBoxes,
    LabelledRegions,
    fit_head,
    measure,
)
from pipeline.vision.label_head import LabelHead, box_steps, moved_boxes

NAMES = ("dog", "grass", "hat")
COLOURS = ("red", "green")
SIZE = (100, 80)
NOTHING = GoldBoxes(np.zeros((0, 4), np.float32), [], [])


def drawn(count, seed=0):
    """Return images whose features are the noun and the colour of each region, with noise."""
    rng = np.random.default_rng(seed)
    images = []
    for number in range(count):
        nouns, colours = rng.integers(0, 3, 4), rng.integers(0, 2, 4)
        corner = np.array([[0, 0], [50, 0], [0, 40], [50, 40]], np.float32)
        boxes = np.concatenate([corner, corner + np.array([45, 35])], axis=1).astype(np.float32)
        features = rng.normal(0, 0.1, (6, 16)).astype(np.float32)
        features[np.arange(4), nouns] += 3
        features[np.arange(4), 3 + colours] += 3
        regions = np.concatenate(
            [boxes + rng.normal(0, 1, (4, 4)), [[0, 0, 100, 80], [40, 30, 60, 50]]]
        )
        found = Detections(
            np.clip(regions, 0, [100, 80, 100, 80]).astype(np.float32),
            ("thing",) * 4 + ("scene", "region"),
            np.array([0.29, 0.28, 0.27, 0.26, 0, 0], np.float32),
            SIZE,
        )
        gold = GoldBoxes(
            boxes,
            [frozenset({NAMES[n]} | ({"puppy"} if n == 0 else set())) for n in nouns],
            [frozenset({COLOURS[c]}) for c in colours],
        )
        images.append(LabelledRegions(f"{seed}-{number}.jpg", found, features, gold))
    return images


@pytest.fixture(scope="module")
def head():
    return fit_head(drawn(120), "none", FitOptions(hidden=32, epochs=25, rate=1e-2), "drawn")


def predicted(head, image):
    return head.predict(image.found, image.features, image.features[4])


def test_head_learns_nouns_attributes_and_background(head):
    assert set(head.nouns) == {*NAMES, "puppy"}
    assert set(head.attributes) == set(COLOURS)
    (image,) = drawn(1, seed=9)
    regions = predicted(head, image)
    for row in range(4):
        best = head.nouns[int(regions.nouns[row].argmax())]
        assert best in image.gold.nouns[row]
        assert head.attributes[int(regions.attributes[row].argmax())] in image.gold.attributes[row]
        assert regions.nouns[row].max() > 0.6
    assert regions.nouns[4:].max() < 0.4  # the whole image and a region that nobody named


def test_a_synonym_counts_less_than_another_region(head):
    (image,) = drawn(1, seed=9)
    objects = head.objects(image.found, predicted(head, image), limit=4)
    overlapping = {tuple(np.round(box / 10).astype(int)) for box in objects.boxes}
    assert len(overlapping) == 4  # each region once, though "puppy" is as sure as "dog"
    assert (np.diff(objects.scores) <= 0).all()
    assert all(len(names) == 1 for names in objects.attributes)


def test_what_the_head_has_rarely_seen_keeps_the_label_of_the_detector(head):
    (image,) = drawn(1, seed=9)
    labels, scores = ["region"] * 6, np.zeros(6, np.float32)
    labels[4], labels[1], scores[1] = "scene", "cat", 0.8
    found = dataclasses.replace(image.found, labels=tuple(labels), scores=scores)
    regions = head.predict(found, image.features, image.features[4])
    objects = head.objects(found, regions, limit=36)
    assert objects.labels[:1] == ("cat",) or objects.scores[0] > 0.8
    row = objects.labels.index("cat")
    assert objects.scores[row] == np.float32(0.8)
    np.testing.assert_array_equal(objects.boxes[row], found.boxes[1])
    same = iou_matrix(objects.boxes, found.boxes[1:2])[:, 0] > 0.4
    others = objects.scores[same & (np.arange(len(same)) != row)]
    assert (others <= 0.21).all()  # at most 1 - 0.8 of what the head says
    doubtful = dataclasses.replace(found, scores=scores * np.float32(0.3))
    assert "cat" not in head.objects(doubtful, regions, limit=36).labels
    lost = regions._replace(nouns=regions.nouns * 0.3)  # the head does not know what it is
    clear = dataclasses.replace(
        found, labels=tuple("dog" if n == "cat" else n for n in labels), scores=scores
    )
    known = dataclasses.replace(head, together=np.eye(len(head.nouns), dtype=np.float32) * 0.99)
    named = known.objects(clear, lost, limit=36)
    row = named.labels.index("dog")
    assert named.scores[row] == np.float32(0.8)
    common = dataclasses.replace(head, together=np.eye(len(head.nouns), dtype=np.float32) * 0.99)
    dogs = dataclasses.replace(found, labels=tuple("dog" if n == "cat" else n for n in labels))
    kept = common.objects(dogs, regions, limit=36)
    assert not any((box == found.boxes[1]).all() for box in kept.boxes)  # the head's own box


def test_limit_and_two_labels_of_one_region(head):
    image = next(i for i in drawn(20, seed=9) if any("dog" in names for names in i.gold.nouns))
    objects = head.objects(image.found, predicted(head, image), limit=36)
    assert {"dog", "puppy"} <= set(objects.labels)
    assert len(head.objects(image.found, predicted(head, image), limit=2).labels) == 2


def test_measure(head):
    quality = measure(head, drawn(30, seed=5))
    assert quality.boxes == 120
    assert quality.found > 95
    assert quality.named > 90
    assert quality.precision >= 60
    assert 2 < quality.shown < 12
    empty = measure(head, [drawn(1)[0]._replace(gold=NOTHING)])
    assert (empty.boxes, empty.shown, empty.threshold) == (0, 0, 1)


def test_saved_head_predicts_the_same(head, tmp_path):
    again = resaved(head, tmp_path / "head.npz")
    (image,) = drawn(1, seed=3)
    np.testing.assert_allclose(
        predicted(again, image).nouns, predicted(head, image).nouns, atol=0.02
    )
    assert (again.nouns, again.about, again.extractor) == (head.nouns, "drawn", "none")


def test_damaged_heads(head, tmp_path):
    path = tmp_path / "head.npz"
    with pytest.raises(MissingInput):
        LabelHead.load(path)
    path.write_bytes(b"no zip")
    with pytest.raises(InputError, match=r"fit-labels.*Fit it again"):
        LabelHead.load(path)
    dataclasses.replace(head, nouns=head.nouns[:-1]).save(path)
    with pytest.raises(InputError, match=r"'together' has the shape \(4, 4\), not \(3, 3\)"):
        LabelHead.load(path)


@pytest.fixture(scope="module")
def by_heart():
    """Return images whose nouns are drawn by lot, and a head that had the time to learn them."""
    rng = np.random.default_rng(3)
    images = []
    for image in drawn(60, seed=4):
        features = rng.normal(0, 1, (6, 64)).astype(np.float32)
        nouns = [frozenset({NAMES[n]}) for n in rng.integers(0, 3, 4)]
        gold = image.gold._replace(nouns=nouns)
        images.append(image._replace(features=features, gold=gold))
    options = FitOptions(
        10, folds=3, hidden=64, epochs=50, dropout=0, rate=1e-2, fold_components=64, fold_hidden=64
    )
    return images, fit_head(images, "none", options)


def chance_of_gold(head, image):
    nouns = head.predict(image.found, image.features, image.features[4]).nouns
    own = [head.nouns.index(*names) for names in image.gold.nouns]
    return nouns[np.arange(4), own].mean()


def test_training_images_get_a_head_that_has_not_seen_them(by_heart, tmp_path):
    images, head = by_heart
    assert np.mean([chance_of_gold(head, image) for image in images]) > 0.65
    for known in (head, resaved(head, tmp_path / "head.npz")):
        unseen = [chance_of_gold(known.for_image(image.image_id), image) for image in images]
        assert np.mean(unseen) < 0.35  # a third is chance
        assert known.for_image("new.jpg") is known


def test_the_other_folds_have_learned_an_image(by_heart):
    images, head = by_heart
    fold = head.folds.of(images[0].image_id)
    others = [
        dataclasses.replace(head, **head.folds.weights_of(other))
        for other in range(3)
        if other != fold
    ]
    assert min(chance_of_gold(other, images[0]) for other in others) > 0.6


def resaved(head, path):
    head.save(path)
    return LabelHead.load(path)


def test_images_are_known_by_their_names():
    same = ["Images/1000268201_693b08cb0e.jpg", "1000268201.jpg", "1000268201_693b08cb0e_b.png"]
    assert len(set(image_keys(same).tolist())) == 1
    others = ["IMG_0001.jpg", "IMG_0002.jpg", "20240501_101112.jpg", "20240501_101113.jpg", "a", ""]
    assert len(set(image_keys(others).tolist())) == len(others)


def test_weights_and_folds_that_do_not_fit(tmp_path):
    path = tmp_path / "head.npz"
    flat = flat_head()
    weights = {name: np.stack([getattr(flat, name)] * 3) for name in WEIGHTS}
    weights |= dict.fromkeys(("region", "context"), np.zeros((3, 2, len(flat.bias)), np.float32))
    keys = np.sort(image_keys(["a.png", "b.png"]))
    folds = Folds(keys, np.zeros((len(flat.region), 2), np.float32), weights)
    dataclasses.replace(flat, folds=folds).save(path)
    LabelHead.load(path)
    arrays = dict(np.load(path))
    nan = {name: value * np.nan for name, value in arrays.items() if value.dtype.kind == "f"}
    scaled = [name for name in arrays if name.endswith("_scale")]
    own = [name for name in arrays if arrays[name].dtype == np.float16]
    fold = [name for name in arrays if name.startswith("fold_") and name not in scaled]
    cases = [(name, nan[name]) for name in (*own, *scaled, "shown")]
    cases += [(name, arrays[name][..., :-1]) for name in (*own, *fold) if name != "fold_images"]
    cases += [(name, arrays[name].astype(np.int64)) for name in (*own, *fold)]
    cases += [(name, arrays[name][:0]) for name in fold if name != "fold_images"]
    cases += [
        ("nouns", arrays["nouns"][[0] * len(flat.nouns)]),
        ("nouns", arrays["nouns"].astype("S")),
    ]
    cases += [("fold_images", arrays["fold_images"][::-1]), ("extractor", np.array(3))]
    cases += [("detector", arrays["detector"][:-1]), ("geometry", arrays["geometry"][:-1])]
    for name, value in cases:
        np.savez(path, **(arrays | {name: value}))
        with pytest.raises(InputError, match=r"head\.npz: not a label head .*Fit it again"):
            LabelHead.load(path)
    none = {name: arrays[name][:0] for name in (*fold, *scaled) if "basis" not in name}
    np.savez(path, **(arrays | none))
    with pytest.raises(InputError, match="folds do not fit"):
        LabelHead.load(path)
    del arrays["fold_bias"]
    np.savez(path, **arrays)
    with pytest.raises(InputError, match="fold_bias"):
        LabelHead.load(path)


def test_detector_and_features_ask_the_head_of_the_image(tmp_path, image):
    flat = flat_head()
    weights = {
        name: getattr(flat, name)[None]
        for name in ("geometry", "detector", "bias", "output", "output_bias")
    }
    weights["region"] = weights["context"] = np.zeros((1, 2, 4), np.float32)
    weights["output_bias"] = weights["output_bias"] + np.eye(8, dtype=np.float32)[:1] * 3
    folds = Folds(image_keys(["seen.png"]), np.zeros((576, 2), np.float32), weights)
    path = tmp_path / "head.npz"
    dataclasses.replace(flat, folds=folds).save(path)
    seen = LazyImage.from_pixels("seen.png", image.pixels)
    detector, features = create_detector("labelled", path=path), LabelledFeatures(path)
    assert detector.detect(image).labels[0] == "grass"
    assert detector.detect(seen).labels[0] == "dog"
    box = np.array([[10, 10, 60, 60]], np.float32)
    difference = features.pool(seen, box) - features.pool(image, box)
    assert difference[0, 576] > 0.5
    np.testing.assert_array_equal(difference[0, 577:], 0)


def test_features_of_another_width(head):
    (image,) = drawn(1)
    with pytest.raises(UsageError, match="width 7"):
        head.predict(image.found, image.features[:, :7], image.features[4, :7])


def test_nothing_to_fit():
    with pytest.raises(UsageError, match="more images"):
        fit_head(drawn(2), "none")


def test_same_seed_same_head(head):
    again = fit_head(drawn(120), "none", FitOptions(hidden=32, epochs=25, rate=1e-2), "drawn")
    np.testing.assert_allclose(again.output, head.output, atol=1e-4)


def test_steps_lead_to_the_gold_box():
    boxes = np.array([[10, 10, 30, 50]], np.float32)
    gold = np.array([[12, 8, 40, 44]], np.float32)
    np.testing.assert_allclose(moved_boxes(boxes, box_steps(boxes, gold), SIZE), gold, atol=1e-4)


@pytest.fixture(scope="module")
def image():
    pixels = np.full((120, 160, 3), 200, np.uint8)
    pixels[60:] = (60, 140, 50)
    pixels[40:90, 50:90] = (180, 30, 30)
    return LazyImage.from_pixels("drawn.png", pixels)


def test_regions_cover_places_of_the_image(image):
    found = Regions().detect(image)
    assert found.labels.count("scene") == 1
    row = found.labels.index("scene")
    assert found.boxes[row].tolist() == [0, 0, 160, 120]
    assert len(found.labels) >= len(PLACES)
    assert (found.scores[row:] == 0).all()
    assert rules_for(create_detector("regions")).max_objects == 128


def test_regions_options():
    assert Regions().identity() != Regions(parents=3).identity()
    with pytest.raises(UsageError, match="detected 0"):
        Regions(detected=0)


def flat_head():
    """Return a head that says the same of every region."""
    width = 576  # of the extractor nanodet
    hidden, outputs = 4, len(NAMES) + 1 + 4
    return LabelHead(
        extractor="nanodet",
        nouns=NAMES,
        attributes=("red",),
        detector_labels=("dog",),
        region=np.zeros((width, hidden), np.float32),
        context=np.zeros((width, hidden), np.float32),
        geometry=np.zeros((10, hidden), np.float32),
        detector=np.zeros((2, hidden), np.float32),
        bias=np.ones(hidden, np.float32),
        output=np.zeros((hidden, outputs), np.float32),
        output_bias=np.array([-1, 0, -3, 1, 0, 0, 0, 0], np.float32),
        together=np.zeros((3, 3), np.float32),
    )


def test_labelled_detector(tmp_path, image):
    flat_head().save(tmp_path / "head.npz")
    detector = create_detector("labelled", path=tmp_path / "head.npz")
    found = detector.detect(image)
    assert found.labels[0] == "grass"
    assert found.attributes[0] == ("red",)
    assert found.attribute_scores[0][0] == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-3)
    assert found.shown == detector.identity()["shown"] == 0.5
    assert found.scores[0] == pytest.approx(0.5, abs=1e-3)
    assert len(found.labels) <= 64
    least = create_detector("labelled", path=tmp_path / "head.npz", min_score=0.4).detect(image)
    assert set(least.labels) == {"grass"}
    assert detector.identity()["features"]["name"] == "nanodet"
    rules = rules_for(detector)
    assert (rules.cross_class_iou, rules.whole_image) == (1, "always")


def test_unseen_labels_of_photos_that_the_packaged_head_was_fitted_on():
    packaged, unseen = create_detector("labelled"), create_detector("labelled", path="unseen")
    assert unseen.path.stat().st_size < 5_000_000
    assert unseen.default_features == "labelled:unseen"
    features = extractor_registry.create("labelled:unseen")
    assert features.identity()["head"] == unseen.identity()["head"]
    head, folds = unseen.head, unseen.head.folds
    assert (len(folds.images), len(folds)) == (6000, 3)
    assert packaged.head.folds is None
    np.testing.assert_array_equal(head.region, packaged.head.region)
    assert head.for_image("my own photo.jpg") is head


def test_packaged_head_is_small_and_complete():
    path = create_detector("labelled").path
    assert path.stat().st_size < 5 << 20
    head = LabelHead.load(path)
    assert head.extractor == "efficientnet-lite0-colours"
    assert {"man", "dog", "grass", "water", "shirt", "street"} <= set(head.nouns)
    assert {"red", "white", "young", "large", "wooden"} <= set(head.attributes)
    assert 0.3 < head.shown < 0.9
