"""Objects, attributes and relations of parsed captions, by the rules of SPICE and beyond."""
