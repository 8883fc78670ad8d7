"""`ray job submit --working-dir . -- python jobs/simulate.py bedside --corpus URL …`"""

import sys

from xmae_dist.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["simulate", *sys.argv[1:]]))
