"""Text graphs of captions: tokens, lemmas, dependencies, and SPICE-style extraction."""
