"""What plug-ins may return: the tables of ``tests/pipeline/test_boundary.py``."""

from tests.faults.table import PLUGIN, case
from tests.pipeline import test_boundary as boundary

AREA = "plug-ins"
KINDS = {
    "a detector": (boundary.DETECTIONS, boundary.test_detections_are_checked),
    "a relation predictor": (boundary.RELATIONS, boundary.test_relations_are_checked),
    "a feature extractor": (boundary.FEATURES, boundary.test_features_are_checked),
    "a parser": (boundary.PARSES, boundary.test_parses_are_checked_and_the_caption_is_named),
}


def checked(kind, name):
    test = KINDS[kind][1]
    if kind == "a parser":
        return lambda: test(name)

    def run(tmp_path):
        test(tmp_path, boundary.write_photo(tmp_path), name)

    return run


for kind, (table, _) in KINDS.items():
    for name in table:
        case(AREA, f"{kind} returns: {name}", PLUGIN)(checked(kind, name))
