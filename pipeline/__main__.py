"""``python -m pipeline``: parse captions, detect objects, fit and evaluate predictors."""

from pipeline.commands.app import app

if __name__ == "__main__":
    app.run()
