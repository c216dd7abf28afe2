"""How fast ``serve`` answers for a store of the size of Flickr30k, and what memory it takes.

    python -m benchmarks serve [--images 31783] [--folder DIR]

The store is made of random graphs (36 objects, 25 relations) and captions with the words of a few
sentences; its photos are noise. Each address is asked for once, by a server that has just started,
and once more: what a reader waits for, and what is kept.
"""

from __future__ import annotations

import argparse
import http.client
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

import features
from features.records import Caption, Detections, ImageEntry, TextGraph

K, R, CAPTIONS, PHOTOS = 36, 25, 5, 60
LABELS = 400  # names of objects, a few of them frequent
PREDICATES = ("on", "next to", "holding", "wearing", "riding", "behind", "under", "near")
NOUNS = ("man", "woman", "dog", "bike", "ball", "street", "child", "horse", "shirt", "field")
VERBS = ("ride", "hold", "wear", "catch", "watch", "sit on")
FILTERS = {
    "label": "label=thing+7",
    "two labels, confidence": "label=thing+3&label=thing+9&confidence=0.3",
    "predicate": "predicate=riding",
    "number of objects": "min=5&max=9&confidence=0.9",
    "split": "split=val",
    "triplet": "find=man+-+ride+-+*",
    "word of many captions": "find=man",
    "last page": "page=99999",
}


def make_store(folder: Path, images: int) -> Path:
    """Write the store and return its path."""
    random = np.random.default_rng(0)
    frequency = 1 / (1 + np.arange(LABELS))
    frequency /= frequency.sum()
    names = np.asarray([f"thing {n}" for n in range(LABELS)])
    sentences = [_sentence(random) for _ in range(500)]
    entries, visual, texts = [], [], []
    for row in range(images):
        chosen = random.integers(0, len(sentences), CAPTIONS).tolist()
        texts += [sentences[at] for at in chosen]
        split = "train" if row % 10 < 8 else ("val", "test")[row % 2]
        captions = tuple(
            Caption(f"{row}#{n}", sentences[at].caption) for n, at in enumerate(chosen)
        )
        entries.append(ImageEntry(f"{row:05}.jpg", f"{row % PHOTOS}.jpg", split, captions))
        corners = np.sort(random.random((K, 2, 2), np.float32), axis=1)
        pairs = random.integers(0, K, (R, 2)).tolist()
        said = random.integers(0, len(PREDICATES), R).tolist()
        visual.append(
            Detections(
                boxes=(corners * np.float32([500, 375])).reshape(K, 4),
                labels=tuple(names[random.choice(LABELS, K, p=frequency)].tolist()),
                scores=np.sort(random.random(K, np.float32))[::-1],
                size=(500, 375),
                attributes=((),) * K,
                relations=tuple(
                    (s, PREDICATES[p], o) for (s, o), p in zip(pairs, said, strict=True)
                ),
                relation_scores=np.sort(random.random(R, np.float32))[::-1],
            )
        )
    return features.build_store(folder, "wide", entries, visual=visual, texts=texts)


def _sentence(random: np.random.Generator) -> TextGraph:
    first, second = random.choice(NOUNS, 2, replace=False).tolist()
    verb = str(random.choice(VERBS))
    tokens = ("A", first, *verb.split(), "a", second)
    end = len(tokens)
    return TextGraph(
        " ".join(tokens),
        tokens=tokens,
        lemmas=tokens,
        upos=("X",) * end,
        xpos=("X",) * end,
        heads=(*range(1, end), -1),
        deprels=("dep",) * end,
        roles=("object",) * end,
        objects=(first, second),
        object_positions=((1,), (end - 1,)),
        relations=((0, verb, 1),),
        relation_positions=((2,),),
    )


def make_photos(folder: Path) -> None:
    """Write photos of 500 x 375 pixels, which JPEG compresses as badly as it can."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(1)
    for number in range(PHOTOS):
        pixels = random.integers(0, 255, (375, 500, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=75)


def ask(port: int, path: str) -> tuple[float, int]:
    """Return the seconds that an address takes and the bytes of its answer."""
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    data = answer.read()
    if answer.status == 302:
        return ask(port, answer.headers["Location"])
    if answer.status != 200:
        raise SystemExit(f"error: {path}: status {answer.status}: {data[:200]!r}")
    return time.perf_counter() - start, len(data)


def memory(process: int) -> float:
    """Return the memory of a process at its peak that is its own, in MB: no mapped files."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    values = {name: rest for name, _, rest in (line.partition(":") for line in lines)}
    return int(values["VmHWM"].split()[0]) / 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=31783)
    parser.add_argument("--folder", type=Path, help="keep the store here for the next time")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scenestore-serve-") as made:
        folder = chosen.folder or Path(made)
        if not (folder / "latest.json").exists():
            make_store(folder, chosen.images)
            make_photos(folder / "photos")
        command = [sys.executable, "-m", "features", "serve", str(folder), "--port", "0"]
        command += ["--no-token"]  # the photos are noise
        command += ["--images-dir", str(folder / "photos")]
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                report(server, start)
            finally:
                server.terminate()
    return 0


def report(server: subprocess.Popen[str], start: float) -> None:
    """Ask a server that has just started, and print what it took."""
    assert server.stdout is not None
    url = next(line for line in server.stdout if line.startswith("http"))
    ready = time.perf_counter() - start
    port = int(url.split(":")[2].split("/")[0])
    print("| address | first | again |\n| --- | --- | --- |")
    rows = {"first page": "/wide/", "one image": "/wide/images/17", "contents": "/wide/contents"}
    rows |= {name: f"/wide/?{query}" for name, query in FILTERS.items()}
    for name, path in rows.items():
        times = [ask(port, path)[0] for _ in range(2)]
        print(f"| {name} | {times[0]:.2f} s | {times[1]:.2f} s |")
        if name == "first page":
            times = []
            for _ in range(2):
                begin = time.perf_counter()
                with ThreadPoolExecutor(6) as pool:  # as many connections as a browser opens
                    photos = [f"/wide/photos/{row}-360.jpg" for row in range(PHOTOS)]
                    list(pool.map(lambda path: ask(port, path), photos))
                times.append(time.perf_counter() - begin)
            print(f"| its 60 photos | {times[0]:.2f} s | {times[1]:.2f} s |")
    print(f"\nStart of the server: {ready:.1f} s. Memory at its peak: {memory(server.pid):.0f} MB.")


if __name__ == "__main__":
    sys.exit(main())
