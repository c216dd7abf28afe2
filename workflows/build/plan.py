"""Content keys and folders of everything that a build makes, known before anything runs.

A plan reads the inputs (captions, lists and hashes of files) and loads no model. Builds with equal
inputs and options have equal keys, so they share their shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, cast

from features.convert import CaptionSet, KeptCaptions, caption_files
from features.errors import MissingInput, StoreError, UsageError
from features.format import Group, HashCache, hash_json, read_sealed, write_sealed
from features.records import ImageEntry
from pipeline.detect import Detector, create_detector
from pipeline.vision import (
    REGIONS_VERSION,
    VISUAL_VERSION,
    Extractor,
    GraphRules,
    ImageFolder,
    create_extractor,
    create_relations,
    keep_available,
    keep_covered,
    resolve_features,
    resolve_relations,
    rules_for,
)
from workflows.build.options import BuildOptions
from workflows.build.text_plan import TextPlan

_DIGITS = 32  # of the hash of an image file that workers compare


class Plan(TextPlan):
    """The groups of one build; each is named from the inputs when first asked for.

    Args:
        options: what to build.

    Raises:
        UsageError: options that contradict each other (any property may raise it).
        InputError: an input file is damaged, or images are missing and ``on_error`` is ``fail``.
    """

    options: BuildOptions

    def __init__(self, options: BuildOptions) -> None:
        super().__init__(Path(options.store_dir), options)
        self._hashes = HashCache(self.store_dir / ".hashes.json")

    @cached_property
    def detector(self) -> Detector:
        """The detector, created but not loaded."""
        name, path = self.options.detector_file
        return create_detector(name, path=path or None)

    @cached_property
    def image_folder(self) -> ImageFolder | None:
        """The listed image files, None without ``--images-dir``."""
        return ImageFolder(Path(self.options.images_dir)) if self.options.images_dir else None

    @cached_property
    def caption_set(self) -> CaptionSet:
        """All images and captions of the captions files."""
        if not self.options.captions:
            raise MissingInput("--captions is missing. Pass the captions file.")
        return self._kept.read()

    @cached_property
    def _kept(self) -> KeptCaptions:
        options = self.options
        path = self.store_dir / ".captions"
        return KeptCaptions(path, options.captions, options.on_error, options.split_by)

    def keep_captions(self) -> None:
        """Keep the captions beside the store, so that the next build need not read them again."""
        self._kept.keep(self.caption_set)

    @cached_property
    def _selection(self) -> tuple[Sequence[ImageEntry], list[str]]:
        """Images that enter the store, and ids of those that cannot."""
        options, folder = self.options, self.image_folder
        if not options.has_graphs:
            return self.caption_set.entries, []
        detector = self.detector
        if folder is None and detector.needs_pixels:
            message = f"detector {options.detector!r} needs the images"
            raise MissingInput(f"{message}, but --images-dir is not given.")
        entries, unknown = keep_covered(
            self.caption_set.entries, detector.covers, folder, on_error=options.on_error
        )
        # Features of boxes from a file are pooled from the images; a file with relations or
        # features needs no images.
        boxes_only = not detector.provides & {"features", "relations"}
        pools = boxes_only and options.features not in ("label", "none")
        if folder is None or not (detector.needs_pixels or pools):
            return entries, unknown
        kept, missing = keep_available(entries, folder, on_error=options.on_error)
        return kept, unknown + missing

    @property
    def entries(self) -> Sequence[ImageEntry]:
        """The images of the store, in row order."""
        return self._selection[0]

    @property
    def missing(self) -> list[str]:
        """Ids of the images in the captions files that are left out of the store."""
        return self._selection[1]

    @cached_property
    def has_files(self) -> bool:
        """True if every image is on disk."""
        folder = self.image_folder
        return folder is not None and all(folder.find(entry) for entry in self.entries)

    @cached_property
    def _file_hashes(self) -> list[str]:
        """Hash of every image file, in row order."""
        root = Path(self.options.images_dir)
        return self._hashes.files(root / entry.file for entry in self.entries)

    @cached_property
    def files_hash(self) -> str:
        """Hash over names and contents of all image files."""
        named = zip(self.entries, self._file_hashes, strict=True)
        return hash_json([[entry.file, digest] for entry, digest in named])

    @cached_property
    def digests(self) -> list[str]:
        """First digits of the hash of every image file; empty if no key depends on the files."""
        if not (self.detector.needs_pixels or self._extractor.needs_pixels):
            return []
        return [digest[:_DIGITS] for digest in self._file_hashes]

    def forget_hashes(self) -> None:
        """Make the next build hash all image files again."""
        self._hashes.forget()

    @cached_property
    def index(self) -> Group:
        """The index group: images, splits and captions."""
        files = [path for path in caption_files(self.options.captions) if path.is_file()]
        captions = self.caption_set
        about = {
            "captions_files": [self._hashes.file(path) for path in files],
            "listed": len(captions.entries),
            "missing": len(self.missing),
            "dropped": [list(item) for item in captions.dropped[:100]],
            "n_dropped": captions.n_dropped,
        }
        index = self.built_index
        return replace(index, params={**index.params, "about": about})

    @cached_property
    def rules(self) -> GraphRules:
        """The rules for what enters a graph; options that are not set suit the detector."""
        return rules_for(self.detector, **self.options.rules())

    @cached_property
    def relations(self) -> str:
        """Name of the relation predictor."""
        return resolve_relations(self.options.relations, self.detector)

    @cached_property
    def features(self) -> str:
        """Name of the feature extractor."""
        return resolve_features(self.options.features, self.detector, has_pixels=self.has_files)

    @cached_property
    def _extractor(self) -> Extractor:
        """The feature extractor, created but not loaded."""
        return create_extractor(self.features, self.detector)

    @property
    def visual(self) -> Group:
        """Boxes, labels, relations and union boxes."""
        return self._visual(self.excluded)

    @property
    def regions(self) -> Group:
        """Features of every object box and union box."""
        return self._regions(self.visual)

    @property
    def without_exclusions(self) -> tuple[Group, Group]:
        """The visual and regions groups of all images."""
        return self._whole, self._regions(self._whole)

    @cached_property
    def _whole(self) -> Group:
        return self._visual({})

    @property
    def excluded(self) -> Mapping[str, str]:
        """Images that a plug-in failed on in an earlier run: id -> reason.

        Such a failure may pass, so it must not stand under the key of the images and plug-ins: the
        exclusions are part of the key, and a build with ``--on-error fail`` tries every image.
        """
        if self.options.on_error == "fail":
            return {}
        with suppress(StoreError):  # no record, or a damaged one
            record = cast("dict[str, Any]", read_sealed(self._exclusions, "excluded"))
            return dict(record["images"])
        return {}

    def exclude(self, failed: Mapping[str, str]) -> None:
        """Exclude more images from the visual and regions groups."""
        images = {**self.excluded, **failed}
        write_sealed(self._exclusions, {"kind": "excluded", "images": images})

    @property
    def _exclusions(self) -> Path:
        return self._whole.folder / "excluded.json"

    @cached_property
    def _recipe(self) -> tuple[dict[str, object], dict[str, str]]:
        """Parameters and inputs of the visual group."""
        parameters: dict[str, object] = {
            "detector": self.detector.identity(),
            "relations": create_relations(self.relations).identity(),
            "rules": self.rules.identity(),
        }
        inputs = {"index": self.index.key}
        if self.detector.needs_pixels:
            inputs["pictures"] = self.files_hash
        return parameters, inputs

    def _visual(self, excluded: Mapping[str, str]) -> Group:
        parameters, inputs = self._recipe
        if excluded:
            parameters = {**parameters, "excluded": dict(excluded)}
        return Group.of(self.store_dir, "visual", VISUAL_VERSION, parameters, inputs)

    def _regions(self, visual: Group) -> Group:
        inputs = {"visual": visual.key}
        if self._extractor.needs_pixels:
            if not self.has_files:
                raise UsageError(
                    f"--features {self.features} needs the images, and some are not on disk. Use "
                    "--features label, or pass a folder with all images."
                )
            inputs["pictures"] = self.files_hash
        parameters = {"features": self._extractor.identity(), "dtype": "float16"}
        return Group.of(self.store_dir, "regions", REGIONS_VERSION, parameters, inputs)

    def leave_no_trace(self) -> None:
        """Delete the cached hashes of the inputs, and the store folder if nothing else is in it."""
        self._hashes.forget()
        with suppress(OSError):
            self.store_dir.rmdir()

    def _check(self) -> None:
        """Raise what is wrong with the options before files are hashed and a folder is made."""
        self.check_text()
        if self.options.has_graphs:
            create_relations(self.relations)
            resolve_features(self.options.features, self.detector)
            rules_for(self.detector, **self.options.rules())
        _ = self.entries  # reads the captions and looks for the images

    def groups(self) -> dict[str, Group]:
        """Return all groups by the name that the store manifest gives them."""
        self._check()
        found = {"index": self.index, **self.text_groups()}
        if self.options.has_graphs:
            found |= {"visual": self.visual, "regions": self.regions}
        return found


@lru_cache(maxsize=8)
def plan_of(options: BuildOptions) -> Plan:
    """Return the plan of these options; the stages of one build share it."""
    return Plan(options)
