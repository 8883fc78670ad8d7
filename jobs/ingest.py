"""`ray job submit --working-dir . -- python jobs/ingest.py FOLDER --corpus URL --cohort NAME …`"""

import sys

from xmae_dist.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["ingest", *sys.argv[1:]]))
