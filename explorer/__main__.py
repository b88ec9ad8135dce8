"""`python -m explorer` is `gating-explorer`."""

from explorer.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
