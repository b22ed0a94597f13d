"""The short version of tests/soak/kill_ranks.py: kill -9 of ranks and parents, and the run is as if nothing had happened.

Needs only the standard library; CEILING is the path of the program.
"""
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "soak"))
from kill_ranks import prepare, soak


def main():
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        prepare(root)
        soak(root, kills=8, n_ranks=3, model="retnet")


if __name__ == "__main__":
    sys.exit(main())
