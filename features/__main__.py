"""``python -m features``: inspect, check, draw, import and export stores."""

from features.commands.app import app

if __name__ == "__main__":
    app.run()
