"""Every block of README, the tutorial and the how-to pages, as printed, from an installed wheel."""

import base64
import csv
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from tests.installed.conftest import ROOT, blocks, run_page

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
RUN = {"data", "train", "find", "exchange", "python"}  # the tests below run these pages
RUN |= {"attention", "serve"}  # with servers: their commands are run by test_servers
# other machines and hardware (checked by test_servers), a table, a list of pages
NOT_RUN = {"cluster", "building", "index"}


def copy(source, tmp_path):
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    return tmp_path


def stable(line):
    """Return a line of an output without what other versions and processors change.

    That is keys, scores and times, rules of tables, and the space before them.
    """
    line = re.sub(r"\b[0-9a-f]{12}\b", "KEY", line)
    line = re.sub(r"-?\d+\.\d+", "0.0", line)
    return re.sub(r"─+", "─", re.sub(r"\s+", " ", line)).strip()


def words(line):
    return shlex.split(line, comments=True)


def captions_of(place):
    with (place / "captions.csv").open(newline="") as file:
        return [(row["file_name"], row["caption"]) for row in csv.DictReader(file)]


def test_every_how_to_is_run():
    pages = {path.stem: path for path in (ROOT / "docs" / "howto").glob("*.md")}
    assert set(pages) == RUN | NOT_RUN
    for name, path in pages.items():
        text = path.read_text()
        kinds = set(re.findall(r"^```(\w+)", text, re.M))
        assert kinds <= {"sh", "python", "console"}, name  # all others are not run
        assert bool(kinds & {"sh", "python"}) == (name in RUN), name
        for block in re.findall(r"^```console\n(.*?)^```", text, re.M | re.S):
            assert block.startswith("$ "), f"{name}: what is not run starts with $"


def test_the_start_page_has_the_lines_of_the_readme():
    pages = [ROOT / "README.md", ROOT / "docs" / "index.md"]
    first, second = (re.findall(r"^```sh\n(.*?)^```", p.read_text(), re.M | re.S) for p in pages)
    assert first == second  # so both have been run


def test_the_tutorial_and_the_lines_of_the_readme(installed, mine, tmp_path):
    """README has the commands of the tutorial; those that differ are run after it."""
    place = copy(mine, tmp_path)
    said = run_page(installed, place, "docs/tutorial.md", notes=True)
    text = (ROOT / "docs" / "tutorial.md").read_text()
    sections = re.split(r"^#+ (.*)\n", text, flags=re.M)[1:]
    printed = 0
    for title, section in zip(sections[::2], sections[1::2], strict=True):
        shown = re.findall(r"^```text\n(.*?)^```", section, re.M | re.S)
        lines = [stable(line) for line in "\n".join(shown).splitlines() if line not in ("", "...")]
        now = {stable(line) for out in said.get(title, []) for line in out.splitlines()}
        assert [line for line in lines if line not in now] == [], title
        printed += len(lines)
    assert printed > 40
    assert not any("Traceback" in out for several in said.values() for out in several)
    assert "40 images" in said["Build the store"][0]
    for made in ("graph.png", "found.html", "report.html", "runs/vse/best.safetensors"):
        assert (place / made).stat().st_size > 1000, made
    assert "report.html" in said["Look at it"][0]
    assert (place / "report.html").stat().st_size > 10_000

    (first,) = blocks("README.md")
    run = [words(line) for block in blocks("docs/tutorial.md") for line in block.lines]
    same = [run.index(words(line)) for line in first.lines if words(line) in run]
    assert same == sorted(same)
    other = [line for line in first.lines if words(line) not in run]
    (place / "found.html").unlink()
    out = [installed.works(place, line) for line in other]
    assert len(same) > len(other) > 0
    assert "new.jpg" in out[0]
    assert "00.jpg" in (place / "found.html").read_text()


def test_concepts(installed, mine, tmp_path):
    place = copy(mine, tmp_path)
    for page in ("store", "variants", "graphs"):
        run_page(installed, place, f"docs/concepts/{page}.md")
    text = "".join(path.read_text() for path in place.glob("stores/mine/*.json"))
    assert len(set(re.findall(r"text-[0-9a-f]{12}", text))) == 2  # two variants, one of tokens
    assert len(set(re.findall(r"tokens-[0-9a-f]{12}", text))) == 1


def test_find_and_search(installed, trained, tmp_path):
    place = copy(trained, tmp_path)
    said = run_page(installed, place, "docs/howto/find.md")
    assert "ball - on - table" in said["Find images by what is in them"][0]
    assert (place / "found.html").stat().st_size > 1000
    assert "ball" in said["Search by sentence"][0]
    assert "new.jpg" in said["Search by photo"][0]
    for name in ("graph.png", "new.png"):
        with Image.open(place / name) as image:
            assert image.width > 300


def test_questions_and_python(installed, trained, tmp_path):
    place = copy(trained, tmp_path)
    (numbers, *_) = [block for block in blocks("docs/howto/attention.md") if block.kind == "python"]
    (place / "block.py").write_text(numbers.text)
    words = installed.works(place, f"{installed.bin / 'python'} block.py").splitlines()
    assert len(words) >= 4
    assert all(re.fullmatch(r"\S+ +-?[01]\.\d\d  \S.*", line) for line in words)
    said = run_page(installed, place, "docs/howto/python.md")
    assert "ride" in said["Parse and detect without a store"][0]
    said = run_page(installed, place, "docs/help/faq.md")
    assert '"objects"' in said["How do I get a scene graph for my image?"][0]


def test_the_notebook_runs(mine, tmp_path):
    place = copy(mine, tmp_path)
    program = (
        "import sys; from pathlib import Path; from website.notebooks import run\n"
        "notebook = run(Path('examples/tour.ipynb'), Path(sys.argv[1]))\n"
        "print([str(one) for cell in notebook.cells for one in cell.get('outputs', [])])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, place], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for shown in ("20 images", "<svg", "loss of the last epoch", "[(00.jpg, "):
        assert shown in done.stdout.replace("\\", "").replace("'", ""), shown


def test_export_and_import(installed, trained, tmp_path):
    place = copy(trained, tmp_path)
    lines = []
    for number, name in enumerate(dict(captions_of(place))):
        rng = np.random.default_rng(number)
        boxes = np.sort(rng.uniform(0, 60, (4, 2, 2)).astype("<f4"), axis=1).reshape(4, 4)
        features = rng.normal(size=(4, 16)).astype("<f4")
        coded = [base64.b64encode(array.tobytes()).decode() for array in (boxes, features)]
        lines.append("\t".join([name.removesuffix(".jpg"), "128", "96", "4", *coded]) + "\n")
    (place / "butd.tsv").write_text("".join(lines))
    said = run_page(installed, place, "docs/howto/exchange.md")
    (images,) = (place / "exported").rglob("*test_ims.npy")
    assert np.load(images, mmap_mode="r").shape[1] == 36
    assert len(json.loads((place / "coco.json").read_text())["annotations"]) == 200
    assert "predicate" in (place / "relations.csv").read_text()
    assert "200 captions" in said["Import bottom-up-attention features"][0]


def test_own_files(installed, mine, tmp_path):
    """CSV, metadata.jsonl, tars, texts, COCO with gold boxes, Flickr30k, verify and repair."""
    place = copy(mine, tmp_path)
    photos = sorted((place / "photos").iterdir())[:6]
    said = {name: [text for at, text in captions_of(place) if at == name] for name in
            (photo.name for photo in photos)}  # fmt: skip
    splits = dict(
        zip(said, ["train", "train", "train", "train", "validation", "test"], strict=True)
    )
    hugging, tars, texts, coco, flickr = (
        place / name for name in ("hf", "tars", "texts", "coco", "flickr30k")
    )
    for folder in (hugging, tars, texts, coco / "train2017", coco / "annotations",
                   flickr / "flickr30k-images"):  # fmt: skip
        folder.mkdir(parents=True)
    rows, listed, images, captions, boxes = [], [], [], [], []
    with tarfile.open(tars / "00000.tar", "w") as tar:
        for number, photo in enumerate(photos):
            name = photo.name
            shutil.copy(photo, hugging)
            shutil.copy(photo, texts)
            (texts / f"{photo.stem}.txt").write_text("\n".join(said[name]))
            rows += [
                {"file_name": name, "text": text, "split": splits[name]} for text in said[name]
            ]
            entry = {".jpg": photo.read_bytes(), ".txt": said[name][0].encode(), ".json": b"{}"}
            for suffix, content in entry.items():
                info = tarfile.TarInfo(f"{number:09d}{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            coco_name = f"{number + 1:012d}.jpg"
            shutil.copy(photo, coco / "train2017" / coco_name)
            with Image.open(photo) as image:
                width, height = image.size
            images.append({"id": number, "file_name": coco_name, "width": width, "height": height})
            captions += [
                {"id": 10 * number + at, "image_id": number, "caption": text}
                for at, text in enumerate(said[name])
            ]
            boxes.append({"id": number, "image_id": number, "category_id": 1, "iscrowd": 0,
                          "bbox": [10, 20, 50, 60], "area": 3000})  # fmt: skip
            name = f"{1000092795 + number}.jpg"
            shutil.copy(photo, flickr / "flickr30k-images" / name)
            sentences = [{"raw": text, "sentid": 9 * number + at} for at, text in
                         enumerate(said[photo.name])]  # fmt: skip
            split = splits[photo.name].replace("validation", "val")
            listed.append({"filename": name, "split": split, "sentences": sentences})
    (hugging / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (flickr / "dataset_flickr30k.json").write_text(json.dumps({"images": listed}))
    annotations = coco / "annotations"
    for kind, entries in (("captions", captions), ("instances", boxes)):
        document = {"images": images, "annotations": entries,
                    "categories": [{"id": 1, "name": "sports ball"}]}  # fmt: skip
        (annotations / f"{kind}_train2017.json").write_text(json.dumps(document))

    def damage():
        shard = next((place / "stores" / "mine").glob("regions-*/*.h5"))
        content = bytearray(shard.read_bytes())
        content[-9] ^= 1
        shard.write_bytes(bytes(content))
        done = installed.run(place, "scenestore verify stores/mine")
        assert done.returncode == 1
        assert "--repair" in done.stderr

    out = run_page(installed, place, "docs/howto/data.md", {"verify --repair": damage})
    assert "40" in out["Build a store from a CSV"][0]
    for title in ("Read metadata.jsonl of Hugging Face", "Read photos with texts beside them",
                  "Build Flickr30k, Flickr8k or COCO", "Use COCO with its gold boxes"):  # fmt: skip
        assert "6 images" in out[title][0], title
        assert "30 captions" in out[title][0], title
    assert "6 images" in out["Read the tars of img2dataset"][0]
    shown = installed.works(
        place, "scenestore draw stores/coco --help; scenestore show stores/coco"
    )
    assert "coco" in shown
    assert "every byte" in installed.works(place, "scenestore verify stores/mine")
