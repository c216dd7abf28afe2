"""Batches of images and captions for training and evaluation."""
