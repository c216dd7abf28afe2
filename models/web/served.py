"""The runs in the app: which stores they fit, their models and what they rank."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from features.batches import ImageEncoder, caption_batch, image_batch
from features.errors import MismatchError, MissingInput, UnknownName, UsageError
from features.records import TextGraph
from features.web import Cache, Ranked, Shelf, Site
from models.evaluation import stored_profile
from models.registry import WordRegions, reads_unions
from models.search import caption_scores, unknown_words
from models.training import check_split, load_run
from models.web.parser import LiveParser

if TYPE_CHECKING:
    from torch import Tensor

    from features.batches import ImageBatch
    from features.format import Photo
    from models.training import Run

__all__ = ["Runs", "Served"]

BATCH = 64
CAPTIONS = 15  # that are shown for an image
KEPT = 1 << 29  # bytes of the codes of a split that are kept between two texts


class Served:
    """A run in the app. Its model is loaded when it is first used, and used by one thread.

    Args:
        name: in URLs.   folder: the run folder.   site: the store it was trained on.
        parser: parses texts as the captions of the store were parsed.
    """

    def __init__(self, name: str, folder: Path, site: Site, parser: LiveParser) -> None:
        self.name, self.folder, self.site, self._parser = name, folder, site, parser
        self._lock = threading.Lock()
        self._run: Run | None = None
        self._codes: tuple[str, list[tuple[Tensor, ...]]] = ("", [])
        self._parsed: Cache[str, TextGraph] = Cache(64)
        self._ranked: Cache[tuple[str, str], Ranked] = Cache(16)
        self._captions: Cache[tuple[int | str, str], list[tuple[int, float]]] = Cache(64)

    @property
    def run(self) -> Run:
        """The loaded run."""
        if self._run is None:
            self._run = load_run(self.folder, self.site.store)
        return self._run

    def split(self, wanted: str = "") -> str:
        """Return a split: the wanted one, else ``test`` or ``val``, else the largest.

        Raises: UnknownName: no such split. UsageError: it has no captions.
        """
        splits = self.site.store.splits
        usual = [name for name in ("test", "val") if name in splits]
        best = usual[0] if usual else max(splits, key=lambda name: len(splits[name]))
        check_split(self.site.store, wanted or best)
        return wanted or best

    def rank_images(self, site: Site, text: str, split: str) -> Ranked:
        """Rank the images of a split for a text, best first.

        Raises: UsageError: the text has no words, or it cannot be parsed.
        """
        del site  # the one of the run
        part = self.split(split)
        return self._ranked.get((text, part), lambda: self._rank_images(text, part))

    def _rank_images(self, text: str, split: str) -> Ranked:
        import torch  # takes seconds to load

        graph = self.parse(text)
        notes = [f"Ranked the images of {split}."]
        with self._lock, torch.inference_mode():
            run = self.run
            if unknown := unknown_words(run, graph):
                notes.append(f"Not known to the model: {', '.join(unknown)}.")
            code = run.model.encode_captions(caption_batch([graph], run.codebook))
            parts = [run.model.score(part, code)[:, 0].float() for part in self._images(split)]
            scores = torch.cat(parts).numpy()
        order = np.argsort(-scores, kind="stable")
        rows = self.site.store.image_rows(split)[order]
        return Ranked(rows, scores[order], tuple(notes))

    def _images(self, split: str) -> Iterator[tuple[Tensor, ...]]:
        """Yield the codes of the images of a split; those of the last split are kept."""
        from models.compute import code_bytes  # loads torch

        known, kept = self._codes
        if known == split:
            yield from kept
            return
        run, fits, size = self.run, True, 0
        kept = []
        unions = reads_unions(run.model)
        for batch in self.site.store.image_batches(split, BATCH, run.codebook, unions=unions):
            code = run.model.encode_images(batch)
            size += code_bytes(code)
            fits = fits and size <= KEPT
            if fits:
                kept.append(code)
            yield code
        self._codes = (split, kept) if fits else ("", [])

    def rank_captions(self, row: int, split: str) -> list[tuple[int, float]]:
        """Return (caption row, score) of the best captions of a split for an image row."""
        return self._rank_captions(row, split, lambda run: self._image(run, row))

    def rank_captions_of_photo(self, key: str, photo: Photo, split: str) -> list[tuple[int, float]]:
        """Return (caption row, score) of the best captions of a split for a photo.

        Args:
            key: of the photo, for the next time.   photo: not of the store.   split: to rank.
        """
        return self._rank_captions(key, split, lambda run: image_batch([photo[1:]], run.codebook))

    def _rank_captions(
        self, key: int | str, split: str, image: Callable[[Run], ImageBatch]
    ) -> list[tuple[int, float]]:
        def make() -> list[tuple[int, float]]:
            import torch  # takes seconds to load

            store = self.site.store
            with self._lock:
                cpu = torch.device("cpu")
                images = image(self.run)
                (found,) = caption_scores(self.run, store, images, split=split, device=cpu).numpy()
            order = np.argsort(-found, kind="stable")[:CAPTIONS]
            rows = store.caption_rows(split)[order]
            return list(zip(rows.tolist(), found[order].tolist(), strict=True))

        return self._captions.get((key, split), make)

    def word_regions(self, row: int, graph: TextGraph) -> tuple[float, WordRegions | None]:
        """Return the score of an image row and a caption, and how its words go with regions."""
        import torch  # takes seconds to load

        with self._lock, torch.inference_mode():
            run = self.run
            image = run.model.encode_images(self._image(run, row))
            code = run.model.encode_captions(caption_batch([graph], run.codebook))
            score = float(run.model.score(image, code)[0, 0])
            align = getattr(run.model, "word_regions", None)
            return score, None if align is None else align(image, code)

    def _image(self, run: Run, row: int) -> ImageBatch:
        unions = reads_unions(run.model)
        return ImageEncoder(self.site.store, run.codebook, unions=unions).batch(np.array([row]))

    def parse(self, text: str) -> TextGraph:
        """Parse a text as the captions of the store were parsed.

        Raises: UsageError: it has no words, or it cannot be parsed.
        """
        if not any(sign.isalnum() for sign in text):
            raise UsageError(f"the text {text!r} has no words. Describe an image.")
        return self._parsed.get(text, lambda: self._parser.parse(text))


class Runs:
    """All runs of the app.

    Args:
        folders: the run folders.   shelf: the stores; each run must fit one of them.

    Raises:
        MissingInput: no such folder, or no run in it.
        MismatchError: no store has the data of a run.
    """

    def __init__(self, folders: Sequence[Path], shelf: Shelf) -> None:
        self.served: dict[str, Served] = {}
        parsers: dict[tuple[str, str], LiveParser] = {}
        for folder in folders:
            site = _site_of(folder, shelf)
            name = plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.resolve().name) or "run"
            count = 2
            while name in self.served:
                name, count = f"{plain}-{count}", count + 1
            kind = site.made_with.get("parser", "spacy"), _profile(site)
            parser = parsers.setdefault(kind, LiveParser(*kind))
            self.served[name] = Served(name, folder, site, parser)
            site.rankers[name] = self.served[name].rank_images

    def of(self, site: Site) -> list[Served]:
        """Return the runs of a store."""
        return [one for one in self.served.values() if one.site is site]

    def one(self, site: Site, name: str) -> Served:
        """Return a run of a store by name.

        Raises: UnknownName: there is none.
        """
        known = {one.name: one for one in self.of(site)}
        if name not in known:
            raise UnknownName.of("run", name, known)
        return known[name]


def _profile(site: Site) -> str:
    """Return the profile of a store's triplets; the default one for a store without."""
    return stored_profile(site.store) if site.store.has("role") else "extended"


def _site_of(folder: Path, shelf: Shelf) -> Site:
    """Return the store that a run was trained on."""
    if not folder.is_dir():
        raise MissingInput(f"{folder}: there is no run folder. Train first, or check the path.")
    try:
        reference = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        hashes = {name: str(group["hash"]) for name, group in reference["groups"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MissingInput(
            f"{folder}: no store.json of a training ({error}). Name a run folder."
        ) from error
    for site in shelf.sites.values():
        groups = site.store.manifest["groups"]
        if all(groups.get(name, {}).get("hash") == known for name, known in hashes.items()):
            return site
    raise MismatchError(
        f"{folder}: trained on {reference.get('path', 'another store')}, whose data none of the "
        "stores has. Name that store as well."
    )
