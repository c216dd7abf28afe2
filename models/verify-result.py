"""``python -m models.verify-result``: the program of ``models.verify``, which can be imported."""

from models.verify import app

if __name__ == "__main__":
    app.run()
