"""Other people's formats: importers into a store and exporters out of it, one file per format."""
