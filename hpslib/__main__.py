"""``python -m hpslib`` and ``accelerate launch -m hpslib``: the command line."""

from hpslib.cli.app import app

if __name__ == "__main__":
    app()
