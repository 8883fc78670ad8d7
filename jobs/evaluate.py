"""`python jobs/evaluate.py …` is `xmae evaluate …`: the entry point for `ray job submit`."""

import sys

from xmae_dist.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
