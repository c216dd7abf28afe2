"""Read a store: checked files, columns and rows, graphs and tables."""
