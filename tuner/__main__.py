"""``python -m tuner``: the same as ``resprune-tune``."""

from tuner.cli import main

if __name__ == "__main__":
    main()
