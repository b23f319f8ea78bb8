"""`python -m pgnotifier`: the same as the command `pgnotifier`."""

from pgnotifier.cli import main

if __name__ == "__main__":
    main()
