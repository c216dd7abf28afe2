"""Messages about unknown names."""

from features.errors import UnknownName


def test_few_names_are_listed_and_many_are_not():
    few = str(UnknownName.of("detector", "nanodot", ["onnx", "nanodet"]))
    assert few == "unknown detector 'nanodot'. Did you mean 'nanodet'? Known: nanodet, onnx."
    ids = [f"{number:04d}.jpg" for number in range(2300)]
    many = str(UnknownName.of("image id", "17.jpg", ids))
    assert many.endswith("Known: 2,300, for example 0000.jpg, 0001.jpg, 0002.jpg.")
    assert len(many) < 160
    assert str(UnknownName.of("split", "test", [])) == "unknown split 'test'. Known: none."
