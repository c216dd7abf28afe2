"""Writers of foreign formats: ``export_*(store, target, ...)`` writes files and returns notes."""
