"""`python jobs/align.py …` is `xmae align …`: the entry point for `ray job submit`."""

import sys

from xmae_dist.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["align", *sys.argv[1:]]))
