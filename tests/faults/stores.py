"""Files of a store that are removed, cut, emptied or changed."""

import json
import shutil

import numpy as np

from features import open_store
from features.errors import ScenestoreError
from features.format import write_sealed
from features.maintenance import verify_store
from tests.faults.table import FOUND, REFUSED, case

AREA = "stores"


def copied(lab):
    if not lab.store.exists():
        shutil.copytree(lab.built, lab.store)
    return lab.store


def flip(raw, draw):
    raw = bytearray(raw)
    raw[int(draw.integers(len(raw)))] ^= 1 << int(draw.integers(8))
    return bytes(raw)


DAMAGE = {
    "is removed": None,
    "is cut in half": lambda raw, _: raw[: len(raw) // 2],
    "is empty": lambda raw, _: b"",
    "has one flipped bit": flip,
    "has a byte too many": lambda raw, _: raw + b"\0",
}
FILES = {f"a shard of {name}": f"{name}-*/00000.h5" for name in ("index", "visual", "text")}
FILES |= {f"a shard of {name}": f"{name}-*/00001.h5" for name in ("regions", "tokens")}
FILES |= {f"a sidecar of {name}": f"{name}-*/00000.json" for name in ("visual", "text")}
FILES |= {f"the manifest of {name}": f"{name}-*/manifest.json" for name in ("index", "visual")}
FILES |= {"the store manifest": "dataset-*.json", "latest.json": "latest.json"}


def damaged(path, change, seed):
    raw = path.read_bytes()
    path.unlink()
    if change is not None:
        path.write_bytes(change(raw, np.random.default_rng(seed)))


def read_all(folder):
    """Read every column; return the contents, or None after an error of ours."""
    try:
        store = open_store(folder)
        parts = {}
        for group in sorted(store.manifest["groups"]):
            for name in store.group(group).manifest.parts:
                column = name.split("/")[0]
                parts[column] = np.asarray(store.column(column)).tolist()
        return parts
    except ScenestoreError:
        return None


def damage(pattern, change):
    def test(lab):
        path = next(copied(lab).glob(pattern))
        damaged(path, change, 3)
        read_all(lab.store)  # no other exception
        found = verify_store(lab.store)
        assert any(path.name in str(finding) or path.stem in str(finding) for finding in found)
        verify_store(lab.store, repair=True)
        lab.heals()
        assert verify_store(lab.store) == []

    return test


for file, pattern in FILES.items():
    for fault, change in DAMAGE.items():
        quick = (file, fault) == ("a shard of visual", "has one flipped bit")
        case(AREA, f"{file} {fault}", FOUND, quick=quick)(damage(pattern, change))


def random_damage(count):
    def test(lab, seed):
        folder = copied(lab)
        reference = read_all(folder)
        files = sorted(path for path in folder.rglob("*") if path.suffix in (".h5", ".json"))
        draw = np.random.default_rng(seed)
        for _ in range(count):
            path = files[int(draw.integers(len(files)))]
            whole = path.read_bytes()
            kind = list(DAMAGE.values())[1:][int(draw.integers(4))]
            path.chmod(0o644)
            path.write_bytes(kind(whole, draw))
            found = read_all(folder)
            noticed = verify_store(folder)
            assert noticed or found == reference, path
            path.write_bytes(whole)

    return test


case(AREA, "500 random changes of shards, sidecars and manifests", FOUND, times=4)(
    random_damage(500)
)
case(AREA, "20 random changes of shards, sidecars and manifests", FOUND, quick=True)(
    random_damage(20)
)


VALUES = [-1, None, "", [], {}, 1.5, True, 1 << 70, "../..", ["x"]]


def places(node, at=()):
    """Yield the path of every value of a document; of long lists only the first."""
    items = node.items() if isinstance(node, dict) else enumerate(node[:1])
    for key, value in items:
        yield (*at, key)
        if isinstance(value, dict | list):
            yield from places(value, (*at, key))


def resealed(pattern):
    """Change one value at a time and seal the document again, as an attacker or a bug would."""

    def test(lab):
        folder = copied(lab)
        path = next(folder.glob(pattern))
        whole = path.read_bytes()
        document = json.loads(whole)
        document.pop("seal")
        for number, place in enumerate(list(places(document))):
            changed = json.loads(json.dumps(document))
            node = changed
            for key in place[:-1]:
                node = node[key]
            node[place[-1]] = VALUES[number % len(VALUES)]
            path.unlink()
            write_sealed(path, changed)
            read_all(folder)
            try:
                verify_store(folder)
            except ScenestoreError as error:
                assert str(folder) in str(error)  # noqa: PT017
        path.unlink()
        path.write_bytes(whole)

    return test


for file, pattern in FILES.items():
    if not file.startswith("a shard"):
        quick = file == "the store manifest"
        case(AREA, f"{file} with wrong values and a right seal", REFUSED, quick=quick)(
            resealed(pattern)
        )
