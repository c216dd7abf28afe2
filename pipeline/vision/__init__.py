"""Scene graphs and region features of images: decoding, detection, relations, extraction."""
