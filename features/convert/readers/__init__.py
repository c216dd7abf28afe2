"""Readers of foreign formats: each file has a ``Source`` per published layout."""
