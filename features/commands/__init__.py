"""The commands of ``python -m features`` and what every Scenestore program shares."""
