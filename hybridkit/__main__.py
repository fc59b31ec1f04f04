"""`python -m hybridkit` is `hybridkit`."""

from hybridkit.cli import main

if __name__ == "__main__":  # worker processes import this module under another name
    main()
