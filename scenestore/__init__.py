"""The program ``scenestore``: every command of the packages under one name."""
