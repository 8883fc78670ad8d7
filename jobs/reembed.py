"""`python jobs/reembed.py …` is `xmae reembed …`: the entry point for `ray job submit`."""

import sys

from xmae_dist.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["reembed", *sys.argv[1:]]))
