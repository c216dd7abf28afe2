"""The parser that stays loaded: the same answers as the command, and its errors."""

import pytest

import pipeline
from features.errors import UsageError
from models.web.parser import LiveParser


@pytest.mark.slow
def test_several_texts_are_parsed_by_one_process():
    parser = LiveParser("spacy", "spice")
    try:
        texts = ["A man rides a horse.", "Two dogs\nplay é"]
        first = parser.parse(texts[0])
        process = parser._process
        found = [first, parser.parse(texts[1])]
        assert parser._process is process
    finally:
        parser.close()
    plain = [" ".join(text.split()) for text in texts]
    assert found == list(pipeline.parse(plain, parser="spacy", profile="spice"))


def test_an_unknown_parser_is_reported_and_may_be_asked_again():
    parser = LiveParser("nonsense", "spice")
    for _ in range(2):
        with pytest.raises(UsageError, match="nonsense"):
            parser.parse("A dog")
    parser.close()
