"""Baselines: SCAN, VSE, zero-shot CLIP, TF-IDF and label bags."""
