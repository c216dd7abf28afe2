"""Lists of images beside a token file: the official splits of Flickr8k, and wrong lists."""

import gzip
from collections import Counter

import pytest

from features.convert.captions import read_captions
from features.errors import InputError, MissingInput

# Names as in Flickr8k; one id has no photo, two images are in no list.
IDS = [f"{1000 + at}_{at:010x}.jpg" for at in range(9)]
ODD = "2258_586949.jpg.1"
LISTS = {"train": IDS[:5], "dev": IDS[5:6], "test": IDS[6:8]}
SPLITS = {"train": 5, "val": 1, "test": 2}


def put(folder, lists=LISTS, ids=(*IDS, ODD), name="Flickr8k.token.txt", of="Flickr_8k.", end="\n"):
    """Write a token file of two captions an image, and the lists; return the token file."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{image}#{k}\tA  dog ({k}) runs in {image} .{end}" for image in ids for k in range(2)]
    (folder / name).write_bytes("".join(lines).encode())
    for split, names in lists.items():
        text = "".join(f"{image}{end}" for image in names)
        (folder / f"{of}{split}Images.txt").write_bytes(text.encode())
    return folder / name


def splits_of(found):
    return dict(Counter(entry.split for entry in found.entries))


@pytest.mark.parametrize("end", ["\n", "\r\n", "  \r\n\r\n"])
def test_the_lists_beside_the_captions_are_the_splits(tmp_path, end):
    path = put(tmp_path, end=end)
    found = read_captions(path)
    assert splits_of(found) == SPLITS
    assert found.entries[0].captions[1].text == f"A dog (1) runs in {IDS[0]} ."
    assert found.entries[0].captions[1].id == f"{IDS[0]}#1"
    assert {file.name for file in found.files} == {
        "Flickr8k.token.txt", *(f"Flickr_8k.{name}Images.txt" for name in LISTS)
    }  # fmt: skip


def test_images_in_no_list_are_left_out_and_counted(tmp_path):
    found = read_captions(put(tmp_path))
    assert found.dropped == ((IDS[8], "in no list of images"), (ODD, "in no list of images"))
    assert found.n_dropped == 2
    assert found.n_captions == 16
    shared = read_captions(put(tmp_path), split_by="50/50")
    assert shared.entries == found.entries  # the lists decide


def test_without_lists_images_have_no_split(tmp_path):
    found = read_captions(put(tmp_path, lists={}))
    assert splits_of(found) == {"unsplit": 10}
    assert found.n_dropped == 0


@pytest.mark.parametrize(
    ("name", "of"),
    [("results_20130124.token", "flickr30k_"), ("captions.token", ""), ("a.token", "Flickr_8k.")],
)
def test_other_token_files_may_have_lists(tmp_path, name, of):
    assert splits_of(read_captions(put(tmp_path, name=name, of=of))) == SPLITS


def test_a_list_may_lack_the_suffix_and_the_token_file_may_be_gzipped(tmp_path):
    bare = {
        split: [image.removesuffix(".jpg") for image in names] for split, names in LISTS.items()
    }
    path = put(tmp_path, lists=bare)
    path.with_name("Flickr8k.token.txt.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert splits_of(read_captions(path.with_name("Flickr8k.token.txt.gz"))) == SPLITS


def test_a_folder_stands_for_its_token_file(tmp_path):
    """``Flickr8k_text`` also has lemmas and ratings, which are no captions."""
    path = put(tmp_path)
    (tmp_path / "Flickr8k.lemma.token.txt").write_text("a.jpg#0\tdog run\n")
    (tmp_path / "ExpertAnnotations.txt").write_text("a.jpg\ta.jpg#0\t1\t1\t2\n")
    found = read_captions(tmp_path)
    assert found.entries == read_captions(path).entries
    assert splits_of(found) == SPLITS


def test_each_data_set_of_a_folder_has_its_own_lists(tmp_path):
    other = {"train": IDS[1:2], "dev": IDS[2:3], "test": IDS[3:4]}
    put(tmp_path, lists=other, name="Flickr30k.token", of="Flickr_30k.")
    put(tmp_path)
    assert splits_of(read_captions(tmp_path / "Flickr8k.token.txt")) == SPLITS
    assert splits_of(read_captions(tmp_path / "Flickr30k.token")) == dict.fromkeys(SPLITS, 1)


@pytest.mark.parametrize("split", LISTS)
def test_a_missing_list_is_named(tmp_path, split):
    path = put(tmp_path, lists={name: ids for name, ids in LISTS.items() if name != split})
    named = {"dev": "val"}.get(split, split)
    with pytest.raises(MissingInput, match=f"list of {named} images is missing beside Flickr_8k"):
        read_captions(path, on_error="skip")


def test_two_lists_of_one_split_are_refused(tmp_path):
    path = put(tmp_path)
    (tmp_path / "Flickr_8k.valImages.txt").write_text(f"{IDS[8]}\n")
    with pytest.raises(InputError, match=r"devImages.txt and Flickr_8k.valImages.txt are lists of"):
        read_captions(path)


@pytest.mark.parametrize(
    ("change", "says", "splits"),
    [
        (
            {"test": [*IDS[6:8], IDS[0]]},
            rf"image '{IDS[0]}': in two lists: Flickr_8k.trainImages.txt, line 1 and "
            "Flickr_8k.testImages.txt, line 3",
            {"train": 4, "val": 1, "test": 2},
        ),
        (
            {"dev": [IDS[5], "missing.jpg"]},
            "image 'missing.jpg': Flickr_8k.devImages.txt, line 2: no caption of it in Flickr8k",
            SPLITS,
        ),
    ],
)
def test_an_image_that_a_list_names_wrongly(tmp_path, change, says, splits):
    path = put(tmp_path, lists={**LISTS, **change})
    with pytest.raises(InputError, match=f"{says}.*--on-error skip"):
        read_captions(path)
    found = read_captions(path, on_error="skip")
    assert splits_of(found) == splits
    assert found.n_dropped == 3  # with the two images that are in no list


def test_a_list_that_is_no_text_or_empty(tmp_path):
    path = put(tmp_path)
    broken = tmp_path / "Flickr_8k.devImages.txt"
    broken.write_bytes(f"{IDS[5]}\n".encode() + b"\xff\xfe.jpg\n")
    with pytest.raises(InputError, match=r"devImages.txt: line 2: not UTF-8 text at byte 0"):
        read_captions(path)
    assert splits_of(read_captions(path, on_error="skip")) == SPLITS
    for text in ("", "\n \n", f"{IDS[0]}\n"):
        broken.write_text(text)
        with pytest.raises(InputError, match=r"devImages.txt: no image in it"):
            read_captions(path, on_error="skip")


def test_an_image_listed_twice_in_one_list_counts_once(tmp_path):
    found = read_captions(put(tmp_path, lists={**LISTS, "dev": [IDS[5], IDS[5]]}))
    assert splits_of(found) == SPLITS
