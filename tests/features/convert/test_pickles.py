"""The restricted unpickler: plain data are loaded, anything that could run code is refused."""

import collections
import os
import pickle
import pickletools
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.convert.safe.pickles import load_array, load_pickle
from features.errors import InputError, MissingInput

MARK = Path(tempfile.mkdtemp()) / "ran"
_reconstruct = np.arange(1).__reduce__()[0]
SIZES = np.array([{"image_h": 3, "image_w": np.float32(4)}, {"image_h": 5, "image_w": 6}], object)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, "x", b"y", None, True], ("t", 1): {"deep": []}},
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.asfortranarray(np.arange(12, dtype=">i4").reshape(3, 4)),
        np.array(["ab", "c"]),
        np.zeros((0, 4), np.float16),
        {"features": np.ones((2, 3)), "n": np.int64(7), "list": [np.float32(0.5)]},
        SIZES,
        np.array([None, [1, 2], np.arange(3)], dtype=object),
        collections.OrderedDict(a=1),
    ],
)
def test_plain_values_are_loaded(value, protocol):
    found = load_pickle(pickle.dumps(value, protocol=protocol), "file")
    same(found, value)


def same(found, value):
    if isinstance(value, np.ndarray):
        assert type(found) is np.ndarray
        assert (found.shape, found.dtype.kind) == (value.shape, value.dtype.kind)
        for a, b in zip(found.ravel().tolist(), value.ravel().tolist(), strict=True):
            same(a, b)
    elif isinstance(value, dict):
        assert list(found) == list(value)
        for key in value:
            same(found[key], value[key])
    elif isinstance(value, (list, tuple)):
        assert len(found) == len(value)
        for a, b in zip(found, value, strict=True):
            same(a, b)
    else:
        assert found == value


class Runs:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def attack(*call):
    return pickle.dumps(Runs(*call))


@pytest.mark.parametrize(
    "data",
    [
        attack(os.system, (f"touch {MARK}",)),
        attack(eval, ("1+1",)),
        attack(getattr, (1, "real")),
        attack(np.load, ("/etc/passwd",)),
        attack(np.ndarray, ((1 << 40,),)),
        attack(bytes, (1 << 40,)),
        attack(np.dtype, ([("a", "O")],)),
        attack(np.dtype, ("V8",)),
        attack(__import__("codecs").encode, ("a", "zlib")),
        b"cbuiltins\nexec\n(V1\ntR.",
        b"cnumpy\nndarray\n((K\x01tR.",
        b"cnumpy.core.multiarray\n_reconstruct\n.",
        pickle.dumps(np.arange(4))[:-10],
        pickle.dumps(np.arange(4))[:-1],
        b"",
        b"\x80\x05N",
        b"(" * 10_000,
        pickle.dumps({np.ndarray: 1}),
        pickle.dumps({("a", np.dtype): 1}),
        pickle.dumps([np.dtype]),
        b"Pid\n.",
        b"\x80\x04\x8f.",  # an empty set: no format needs one
    ],
    ids=lambda data: f"{len(data)}-bytes",
)
def test_anything_else_is_refused(data):
    with pytest.raises(InputError, match="file"):
        load_pickle(data, "file")
    assert not MARK.exists()


def test_array_whose_bytes_do_not_match_its_shape():
    good = pickle.dumps(np.arange(8, dtype=np.uint8), protocol=2)
    assert good.count(b"K\x08") == 1
    with pytest.raises(InputError):
        load_pickle(good.replace(b"K\x08", b"K\x7f"), "file")  # says 127, has 8


def test_record_type_cannot_smuggle_pointers():
    """A forged type with an object field would make numpy follow the array's bytes as pointers."""
    fields = {"f": (np.dtype("O"), 0)}
    state = (3, "<", None, ("f",), fields, 8, 1, 0)

    class ForgedType:
        def __reduce__(self):
            return np.dtype, ("i8", False, True), state

    class Forged:
        def __reduce__(self):
            return (
                _reconstruct,
                (np.ndarray, (0,), b"b"),
                (1, (1,), ForgedType(), False, b"\x01" * 8),
            )

    with pytest.raises(InputError):
        load_pickle(pickle.dumps(ForgedType()), "file")
    found = load_pickle(pickle.dumps(Forged()), "file")
    assert found.dtype == np.int64  # the forged fields are ignored
    assert found.tolist() == [0x0101010101010101]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_bytes_raise_or_give_plain_data(data):
    raw = bytearray(pickle.dumps({"a": np.arange(6.0), "b": SIZES, "c": ["x", 1]}, protocol=2))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    allowed = (dict, list, tuple, str, bytes, int, float, type(None), np.ndarray, complex)
    try:
        found = load_pickle(bytes(raw), "file")
    except InputError:
        return
    assert isinstance(found, (*allowed, bytearray))


def test_arrays_from_files(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(6.0).reshape(2, 3))
    found = load_array(tmp_path / "a.npy")
    assert found.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert isinstance(found, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0] = 1
    np.save(tmp_path / "o.npy", SIZES, allow_pickle=True)
    assert load_array(tmp_path / "o.npy")[1]["image_w"] == 6
    np.save(tmp_path / "e.npy", np.zeros((0, 36, 4)))
    assert load_array(tmp_path / "e.npy").shape == (0, 36, 4)


def test_broken_array_files(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(600.0))
    whole = (tmp_path / "a.npy").read_bytes()
    evil = np.empty(1, object)
    evil[0] = Runs(os.system, ("true",))
    np.save(tmp_path / "evil.npy", evil, allow_pickle=True)
    with pytest.raises(InputError, match="system"):
        load_array(tmp_path / "evil.npy")
    np.save(tmp_path / "rec.npy", np.zeros(3, dtype=[("a", "f4")]))
    for name, data in {
        "torn": whole[:-100],
        "header": whole[:20],
        "empty": b"",
        "text": b"hello" * 50,
        "huge": whole.replace(b"(600,)", b"(99999999999999,)"),
        "rec": (tmp_path / "rec.npy").read_bytes(),
    }.items():
        path = tmp_path / f"{name}.npy"
        path.write_bytes(data)
        with pytest.raises(InputError, match=name):
            load_array(path)
    with pytest.raises(MissingInput):
        load_array(tmp_path / "none.npy")


def test_stand_ins_are_defined_here():
    """find_class returns only objects of its own module."""
    from features.convert.safe import pickles

    for item in pickles._KNOWN.values():
        assert item.__module__ == pickles.__name__
    names = {
        arg for op, arg, _ in pickletools.genops(pickle.dumps(SIZES, 2)) if op.name == "GLOBAL"
    }
    assert names  # numpy arrays do go through find_class


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02}r\x00\xc2\xeb\x0b.",  # memo index 200,000,000: 3 GB from a nine-byte pickle
        b"}p200000000\n.",
        b"}p" + b"0" * 30 + b"200000000\n.",
        b"\x80\x05\x96" + (1 << 28).to_bytes(8, "little") + b"x.",  # bytearray
        b"\x80\x04\x8e" + (1 << 62).to_bytes(8, "little") + b"x.",
        b"T\xff\xff\xff\xffx.",  # a string of -1 bytes
        b"\x80\x04\x95" + (99).to_bytes(8, "little") + b"N.",
        # the opcode crosses its frame: the C unpickler continues after the bytes it read ahead
        b"\x80\x04\x95" + (2).to_bytes(8, "little") + b"Jabcd\x00\x00\x00\x00.",
        b"\x80\x04\x95\x0a" + b"\0" * 7 + b"\x95\x03" + b"\0" * 7 + b"NNN.",
        b"cnumpy\ndtype",
    ],
    ids=lambda data: data[:6].hex(),
)
def test_stated_sizes_without_bytes(data, capfd):
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="file"):
            load_pickle(data, "file")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert "SystemError" not in capfd.readouterr().err


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_many_frames_and_memo_entries(protocol):
    value = {"a": [str(n) for n in range(70_000)], "b": b"x" * 200_000, "c": np.arange(90_000)}
    found = load_pickle(pickle.dumps(value, protocol=protocol), "file")
    assert (found["a"], found["b"]) == (value["a"], value["b"])
    np.testing.assert_array_equal(found["c"], value["c"])


def test_objects_in_columns(tmp_path):
    """numpy pickles the objects of an array row by row, even if memory is in column order."""
    value = np.empty((2, 3), dtype=object, order="F")
    for at in np.ndindex(2, 3):
        value[at] = str(at)
    assert load_pickle(pickle.dumps(value), "file").tolist() == value.tolist()
    np.save(tmp_path / "a.npy", value, allow_pickle=True)
    assert load_array(tmp_path / "a.npy").tolist() == value.tolist()


def many(call: bytes, first: bytes) -> bytes:
    """Call a function 2,000 times with memo entry 1."""
    return b"\x80\x02" + first + b"q\x010" + call + b"q\x020](" + b"h\x02h\x01\x85R" * 2000 + b"e."


LONG = b"X" + (100_000).to_bytes(4, "little") + b"x" * 100_000


@pytest.mark.parametrize(
    "data",
    [
        many(b"c_codecs\nencode\n", LONG),
        many(b"ccollections\nOrderedDict\n", b"](" + b"K\x01K\x02\x86" * 50_000 + b"e"),
        b"cnumpy\ndtype\nq\x000cnumpy.core.multiarray\nscalar\nq\x020h\x00X\x07\0\0\0S100000"
        b"\x85Rq\x030" + LONG + b"q\x010](" + b"h\x02h\x03h\x01\x86R" * 2000 + b"e.",
    ],
    ids=["encode", "dict", "scalar"],
)
def test_few_bytes_do_not_become_many(data):
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="more data than the pickle has bytes"):
            load_pickle(data, "file")
        assert tracemalloc.get_traced_memory()[1] < 1 << 26
    finally:
        tracemalloc.stop()


def test_a_pickle_cannot_change_a_function():
    """BUILD sets attributes of its target; the next file must be read like this one."""
    state = b"N}X\x0c\0\0\0__defaults__X\x01\0\0\0F\x85s\x86b."
    with pytest.raises(InputError, match="state for a function"):
        load_pickle(b"\x80\x02cnumpy.core.numeric\n_frombuffer\n" + state, "file")
    found = load_pickle(pickle.dumps(np.arange(6).reshape(2, 3), protocol=5), "file")
    assert found.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_nested_list_is_not_printed():
    nested: object = [1] * 10
    for _ in range(30):
        nested = [nested] * 10
    with pytest.raises(InputError, match="an array of type"):
        load_pickle(attack(np.dtype, (nested,)), "file")
