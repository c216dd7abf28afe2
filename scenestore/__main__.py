"""``python -m scenestore``: the program ``scenestore``."""

from scenestore.program import main

if __name__ == "__main__":
    main()
