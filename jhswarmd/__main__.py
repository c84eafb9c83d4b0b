"""``python -m jhswarmd``: the same as the console script."""

from jhswarmd.cli import main

if __name__ == "__main__":
    main()
