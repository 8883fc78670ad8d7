"""`python jobs/windows.py …` is `xmae windows …`: the entry point for `ray job submit`."""

import sys

from xmae_dist.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["windows", *sys.argv[1:]]))
