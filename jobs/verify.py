"""`python jobs/verify.py …` is `xmae verify …`: the entry point for `ray job submit`."""

import sys

from xmae_dist.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["verify", *sys.argv[1:]]))
