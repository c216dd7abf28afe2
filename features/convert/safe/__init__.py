"""Reading untrusted files: checked values, JSON item by item, pickles without code."""
