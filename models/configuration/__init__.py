"""Configurations of training runs: typed sections, shipped files and command-line overrides."""
