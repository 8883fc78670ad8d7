"""`python jobs/embed.py …` is `xmae embed …`: the entry point for `ray job submit`."""

import sys

from xmae_dist.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["embed", *sys.argv[1:]]))
