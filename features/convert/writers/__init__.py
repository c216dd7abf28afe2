"""Writers of foreign formats: ``export_*(store, out, splits, ...)`` returns notes."""
