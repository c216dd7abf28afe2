"""The demo's scenes: captions are true, files repeatable, and labels show no colours."""

from __future__ import annotations

import collections
import json
import random
import re

import numpy as np
import pytest
from PIL import Image

from features.errors import UsageError
from pipeline.demo.captions import FORMS, write_captions
from pipeline.demo.drawing import draw_scene
from pipeline.demo.scenes import detections_of, make_scenes, plan_scenes, splits_of
from pipeline.demo.world import COLOURS, COMBINATIONS, LABELS, RELATIONS, SETTINGS, holds

LABEL_OF = {
    **{label: label for label in LABELS},
    **dict.fromkeys(["man", "woman", "guy", "lady", "boy", "girl", "child"], "person"),
    **dict.fromkeys(["coat", "jacket", "dress"], "person"),
    "crate": "box",
    "vehicle": "car",
    "building": "house",
    "cottage": "house",
    "puppy": "dog",
    "kitten": "cat",
}
PLACE = (
    r" (?:in a meadow|on the grass|in a green field|on the beach|on the sand|on a sandy beach"
    r"|in the snow|on snowy ground|on the water|on a calm lake|in a room|on a wooden floor)(?=\.)"
)
SIZE_OF = {"small": "small", "little": "small", "large": "large", "big": "large"}


@pytest.fixture(scope="module")
def scenes():
    return plan_scenes(240, seed=3)


@pytest.fixture(scope="module")
def captions(scenes):
    return [write_captions(scene, random.Random(n)) for n, scene in enumerate(scenes)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("scenes")
    make_scenes(path, images=30, seed=1)
    return path


def singular(word):
    for ending in ("es", "s"):
        if word.endswith(ending) and word.removesuffix(ending) in LABEL_OF:
            return word.removesuffix(ending)
    return word


def noun_phrases(caption):
    """Yield (number, adjectives, label) of each maximal run of adjectives and a noun."""
    adjectives, number = [], 1
    for word in re.findall(r"[a-z]+", caption.lower()):
        if word in ("two", "three"):
            number = {"two": 2, "three": 3}[word]
        elif word in COLOURS or word in SIZE_OF or word == "traffic":
            adjectives.append(word)
        else:
            if singular(word) in LABEL_OF:
                yield number, adjectives, LABEL_OF[singular(word)]
            adjectives, number = [], 1


def test_every_attribute_in_a_caption_is_true(scenes, captions):
    checked = 0
    for scene, texts in zip(scenes, captions, strict=True):
        for text in texts:
            for number, adjectives, label in noun_phrases(text):
                same = [e for e in scene.entities if e.label == label]
                colours = {a for a in adjectives if a in COLOURS}
                sizes = {SIZE_OF[a] for a in adjectives if a in SIZE_OF}
                assert any(
                    colours <= {e.colour}
                    and (sizes <= {e.size} or label == "person")
                    and number in (1, len(e.boxes))
                    for e in same
                ), (text, scene)
                checked += len(colours) + len(sizes)
    assert checked > 2000


def test_predicative_colours_are_true(scenes, captions):
    checked = 0
    for scene, texts in zip(scenes, captions, strict=True):
        for text in texts:
            found = re.fullmatch(
                r"The (?:\w+ )*?(\w+) (?:that|which )?.*\b(?:is|are) (\w+)\.", text
            )
            if found and found[2] in COLOURS and singular(found[1]) in LABEL_OF:
                label = LABEL_OF[singular(found[1])]
                assert found[2] in {e.colour for e in scene.entities if e.label == label}, text
                checked += 1
    assert checked > 40


def test_nouns_of_people_match_their_style(scenes, captions):
    allowed = {
        ("large", 0): {"man", "guy", "coat", "jacket"},
        ("large", 1): {"woman", "lady", "dress"},
        ("small", 0): {"boy", "child", "coat", "jacket"},
        ("small", 1): {"girl", "child", "dress"},
    }
    words = set().union(*allowed.values())
    for scene, texts in zip(scenes, captions, strict=True):
        person = next((e for e in scene.entities if e.label == "person"), None)
        said = set(re.findall(r"[a-z]+", " ".join(texts).lower())) & words
        assert said <= (allowed[person.size, person.style] if person else set())


def test_spatial_words_follow_from_the_boxes(scenes):
    """Check 'There is A <preposition> B' with the boxes, not with the plan's relations."""
    prepositions = (
        "to the left of|to the right of|in front of|behind|above|over|on top of|inside|in|on"
    )
    checked = collections.Counter()
    for number, scene in enumerate(scenes):
        boxes = {e.label: e.box for e in scene.entities}
        if len(boxes) < 3 or "person" in boxes:
            continue  # two balls are ambiguous; "in a coat" is not a place
        for text in write_captions(scene, random.Random(1000 + number)):
            bare = re.sub(PLACE, "", text)
            found = re.fullmatch(rf"There (?:is|are) (.+?) ({prepositions}) (.+)\.", bare)
            if not found:
                continue
            nouns = (re.findall(r"[a-z]+", part)[-1] for part in (found[1], found[3]))
            labels = [LABEL_OF[singular(noun)] for noun in nouns]
            prep = found[2]
            a, b = (boxes[label] for label in labels)
            checked[prep] += 1
            match prep:
                case "to the left of":
                    assert (a[0] + a[2]) < (b[0] + b[2]), text
                case "to the right of":
                    assert (a[0] + a[2]) > (b[0] + b[2]), text
                case "above" | "over":
                    assert a[3] < b[1], text
                case "on" | "on top of":
                    assert a[1] < b[1] <= a[3] < b[3], text
                case "in" | "inside":
                    assert b[0] <= a[0] < a[2] <= b[2], text
                    assert a[3] <= b[3], text
                case "in front of":
                    assert a[3] > b[3], text
                case "behind":
                    assert a[3] < b[3], text
    assert sum(checked.values()) > 25
    assert len(checked) > 4


def test_planned_relations_hold_and_all_occur(scenes):
    seen = collections.Counter()
    for scene in scenes:
        for relation in scene.relations:
            assert holds(relation, scene.entities)
            seen[relation.predicate] += 1
    assert set(seen) == set(RELATIONS)
    assert min(seen.values()) > 10
    assert {scene.setting for scene in scenes} == set(SETTINGS)


def test_a_false_relation_does_not_hold(scenes):
    """Opposite relations are not both true."""
    from pipeline.demo.world import Relation

    for scene in scenes:
        for r in scene.relations:
            if r.predicate in ("on", "above", "in front of", "behind"):
                assert not holds(Relation(r.object, r.predicate, r.subject), scene.entities)


def test_boxes_are_inside_the_image(scenes):
    for number, scene in enumerate(scenes):
        width, height = scene.size
        boxes = np.array(detections_of(scene, random.Random(number))["bbox"])
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= (width, height)).all()
        assert (boxes[:, 2:] - boxes[:, :2] > 8).all()


def test_labels_show_neither_colour_nor_size_nor_relation(scenes):
    labels, predicates = set(), set()
    for number, scene in enumerate(scenes):
        found = detections_of(scene, random.Random(number))
        labels |= set(found["labels"])
        predicates |= {predicate for _, predicate, _ in found["rels"]}
    assert labels == set(LABELS) & {label for labels, _ in COMBINATIONS for label in labels} | {
        "ground"
    }
    assert predicates == {"near", "touching"}


def test_scenes_share_labels_but_not_content(scenes):
    labels = collections.Counter(
        tuple(sorted({e.label for e in scene.entities})) for scene in scenes
    )
    assert len(labels) == len(COMBINATIONS)
    assert set(labels.values()) == {240 // len(COMBINATIONS)}
    content = {
        (
            scene.setting,
            tuple((e.label, e.colour, e.size, len(e.boxes)) for e in scene.entities),
            tuple(r.predicate for r in scene.relations),
        )
        for scene in scenes
    }
    assert len(content) > 230


def test_colours_are_in_the_pixels(scenes):
    for number, scene in enumerate(scenes[:24]):
        pixels = np.asarray(draw_scene(scene, number), dtype=np.float32)
        for entity in scene.entities:
            if entity.label not in ("ball", "box", "basket", "car", "house", "tree"):
                continue
            x1, y1, x2, y2 = (round(v) for v in entity.boxes[0])
            patch = pixels[y1:y2, x1:x2].reshape(-1, 3)
            near = np.abs(patch - COLOURS[entity.colour]).max(1) < 56
            assert near.mean() > 0.1, (number, entity)


def test_captions_use_every_form_and_never_repeat(scenes, captions):
    assert all(len(set(texts)) == 5 for texts in captions)
    text = " ".join([text for texts in captions for text in texts])
    for pattern in (
        r"\bThere (is|are)\b",  # existential
        r"\b(that|which|who) (is|are|wears|stands)\b",  # relative clauses
        r"\b(has|have) been (placed|left|parked)\b",  # passive
        r"\b(hidden|held|supported) by\b",  # passive with agent
        r"\b(two|three) (\w+ )*\w+s\b",  # numbers
        r"\b(standing|sitting|lying|flying)\b",  # participles
        r" while ",
        r"\w+, \w+ (\w+ )*and ",  # lists
        r"\bwith (\w+ )+on it\b",  # a pronoun
        r"\bsmall and \w+\.",  # two adjectives after the verb
    ):
        assert re.search(pattern, text), pattern
    assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text)
    assert len(FORMS) == 10


def test_files_follow_their_layouts(folder):
    document = json.loads((folder / "dataset_scenes.json").read_text())
    graphs = json.loads((folder / "scene_graphs.json").read_text())
    names = [image["filename"] for image in document["images"]]
    assert len(set(names)) == 30
    assert set(names) == set(graphs) == {p.name for p in (folder / "images").iterdir()}
    sentids = [s["sentid"] for image in document["images"] for s in image["sentences"]]
    assert sentids == list(range(150))
    for image in document["images"]:
        graph = graphs[image["filename"]]
        assert len(graph["labels"]) == len(graph["bbox"])
        for subject, _, target in graph["rels"]:
            for end in (subject, target):
                label, row = end.rsplit(":", 1)
                assert graph["labels"][int(row)] == label
        for sentence in image["sentences"]:
            assert sentence["tokens"] == re.sub("[.,]", "", sentence["raw"].lower()).split()
        with Image.open(folder / "images" / image["filename"]) as image:
            assert image.format == "JPEG"


def test_same_seed_same_files(folder, tmp_path):
    make_scenes(tmp_path / "again", images=30, seed=1)
    make_scenes(tmp_path / "other", images=30, seed=2)
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    assert len(files) == 32
    for file in files:
        assert (folder / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file
    name = "dataset_scenes.json"
    assert (folder / name).read_bytes() != (tmp_path / "other" / name).read_bytes()


def test_splits_hold_every_combination():
    splits = splits_of(600)
    assert collections.Counter(splits) == {"train": 400, "val": 80, "test": 120}
    test_bags = collections.Counter(
        n % len(COMBINATIONS) for n, s in enumerate(splits) if s == "test"
    )
    assert test_bags == dict.fromkeys(range(len(COMBINATIONS)), 15)
    with pytest.raises(UsageError, match="at least 15"):
        splits_of(10)
