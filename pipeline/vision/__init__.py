"""Scene graphs and region features of images: decoding, detection, relations, extraction."""

from pipeline.vision.boxes import iou_matrix
from pipeline.vision.detection import Detector, create_detector, detector_registry
from pipeline.vision.detectors.nanodet import SIDE, session
from pipeline.vision.extraction import (
    Extractor,
    PooledExtractor,
    create_extractor,
    extractor_registry,
    resolve_features,
)
from pipeline.vision.graph_builder import (
    REGIONS_VERSION,
    VISUAL_VERSION,
    GraphBuilder,
    GraphRules,
    apply_rules,
    rules_for,
)
from pipeline.vision.image_folder import ImageFolder, describe_missing, keep_available, keep_covered
from pipeline.vision.images import LazyImage, read_image
from pipeline.vision.label_fitting import FitOptions, GoldBoxes, LabelledRegions, fit_head, measure
from pipeline.vision.predictors.prior import LabelGraph, fit_prior
from pipeline.vision.relations import (
    RelationPredictor,
    create_relations,
    relation_predictors,
    resolve_relations,
)
from pipeline.vision.store_recipe import recipe_of

__all__ = [
    "REGIONS_VERSION",
    "SIDE",
    "VISUAL_VERSION",
    "Detector",
    "Extractor",
    "FitOptions",
    "GoldBoxes",
    "GraphBuilder",
    "GraphRules",
    "ImageFolder",
    "LabelGraph",
    "LabelledRegions",
    "LazyImage",
    "PooledExtractor",
    "RelationPredictor",
    "apply_rules",
    "create_detector",
    "create_extractor",
    "create_relations",
    "describe_missing",
    "detector_registry",
    "extractor_registry",
    "fit_head",
    "fit_prior",
    "iou_matrix",
    "keep_available",
    "keep_covered",
    "measure",
    "read_image",
    "recipe_of",
    "relation_predictors",
    "resolve_features",
    "resolve_relations",
    "rules_for",
    "session",
]
