"""The report: sections, figures and retrieval examples of a self-contained HTML page."""
