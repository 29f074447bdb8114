"""`python -m streampool`: the command line over the package."""

from streampool._cli import main

if __name__ == "__main__":
    raise SystemExit(main())
