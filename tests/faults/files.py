"""Photos and captions that are missing, changed, unreadable or no pictures."""

import io
import os
import shutil
import sys

from PIL import Image

from features import open_store
from tests.faults.table import ERROR, SAME, SKIPPED, case

AREA = "inputs"
BAD = "005.png"


def stopped_stage(lab, change, words, *more):
    """Change the photos between the plan and the first image; the build must fail."""
    code = (
        "import sys, pathlib, shutil, os\n"
        "from features.errors import ScenestoreError\n"
        "from workflows.build.plan import plan_of\n"
        "from workflows.build.stages import DetectGraphs, IndexImages\n"
        "import workflows.build.stages as stages\n"
        "photos = pathlib.Path(sys.argv[1])\n"
        "write = stages.Stage.write\n"
        "def late(self):\n"
        "    if isinstance(self, DetectGraphs):\n"
        "        self.plan.files_hash\n"
        f"        {change}\n"
        "    return write(self)\n"
        "stages.Stage.write = late\n"
        "from luigi.retcodes import run_with_retcodes\n"
        "import workflows\n"
        "run_with_retcodes(sys.argv[2:])\n"
    )
    script = lab.folder / "late.py"
    script.write_text(
        f"if __name__ == '__main__':\n    {code.replace(chr(10), chr(10) + '    ')}\n"
    )
    command = lab.command(*more)
    words_of = command[command.index("--module") :]
    lab.command, kept = (
        (lambda *_: [sys.executable, str(script), str(lab.photos), *words_of]),
        lab.command,
    )
    error = lab.fails(words)
    lab.command = kept
    return error


CHANGES = {
    "the images folder is moved away after the plan": (
        "photos.rename(photos.with_name('away'))",
        "does not see this path",
        lambda lab: (lab.folder / "away").rename(lab.photos),
    ),
    "one photo is deleted after the plan": (
        f"(photos / '{BAD}').unlink()",
        f"{BAD}: no such file",
        None,
    ),
    "one photo is replaced by another after the plan": (
        f"shutil.copy(photos / '006.png', photos / '{BAD}')",
        f"{BAD}: the file has changed",
        None,
    ),
    "one photo is emptied after the plan": (
        f"(photos / '{BAD}').write_bytes(b'')",
        f"{BAD}: the file has changed",
        None,
    ),
    "one photo becomes a folder after the plan": (
        f"(photos / '{BAD}').unlink(); (photos / '{BAD}').mkdir()",
        f"{BAD}: cannot be read",
        None,
    ),
}


def changed(change, words, undo):
    def test(lab):
        kept = (lab.photos / BAD).read_bytes()
        stopped_stage(lab, change, words, "--on-error", "skip")
        if undo is not None:
            undo(lab)
        else:
            path = lab.photos / BAD
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            path.write_bytes(kept)
        lab.heals("--on-error", "fail")

    return test


for fault, (change, words, undo) in CHANGES.items():
    case(AREA, f"{fault}, `--on-error skip`", ERROR, quick="moved" in fault)(
        changed(change, words, undo)
    )


def eps():
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"


def bomb():
    out = io.BytesIO()
    Image.new("1", (40_000, 40_000)).save(out, "PNG")
    return out.getvalue()


def cut():
    out = io.BytesIO()
    Image.effect_noise((99, 99), 90).save(out, "PNG")
    return out.getvalue()[:2000]


PICTURES = {
    "is empty": (lambda: b"", "the file is empty"),
    "is a web page": (lambda: b"<html>404</html>", "not an image"),
    "is cut": (cut, "damaged"),
    "is EPS, which Pillow would give to Ghostscript": (eps, "not an image"),
    "has 1.6 billion pixels": (bomb, "exceed"),
}


def picture(make, words):
    def test(lab):
        (lab.photos / BAD).write_bytes(make())
        assert BAD in lab.fails(words, "--on-error", "fail")
        code, said = lab.run("--on-error", "skip")
        assert code == 0, said
        assert list(open_store(lab.store).skipped) == [BAD]

    return test


for fault, (make, words) in PICTURES.items():
    case(AREA, f"a photo that {fault}", SKIPPED)(picture(make, words))


@case(AREA, "a photo with other bytes, the same size and the same time", ERROR)
def same_stamp(lab):
    lab.run()
    path = lab.photos / BAD
    before, stamp = path.read_bytes(), path.stat()
    raw = bytearray(before)
    raw[-20] ^= 1
    path.write_bytes(raw)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    shutil.rmtree(lab.group("visual"))
    lab.fails(f"{BAD}: the file has changed")
    path.write_bytes(before)
    lab.heals()


@case(AREA, "a captions file that is cut", ERROR)
def captions(lab):
    raw = lab.captions.read_bytes()
    lab.captions.write_bytes(raw[:-50])
    lab.fails(lab.captions.name)
    lab.captions.write_bytes(raw)
    lab.heals()


@case(AREA, "an images folder that does not exist", ERROR)
def no_folder(lab):
    lab.photos.rename(lab.folder / "away")
    lab.fails("cannot list this images folder")
    (lab.folder / "away").rename(lab.photos)
    lab.heals()


@case(AREA, "the clock of the photos and of the store is a year ahead", SAME)
def ahead(lab):
    later = 2_000_000_000
    for path in lab.photos.iterdir():
        os.utime(path, (later, later))
    lab.run()
    for path in lab.store.rglob("*"):
        os.utime(path, (later, later))
    lab.heals()


@case(AREA, "the time goes back between two runs", SAME)
def back(lab):
    build = lab.start(FAULTY_SECONDS="0.02")
    import time

    time.sleep(2.5)
    build.kill()
    lab.end(build)
    for path in lab.store.rglob("*"):
        os.utime(path, (1e9, 1e9))
    lab.heals()
