"""`python -m xmae_dist.cli` is `xmae`."""

import sys

from xmae_dist.cli.main import main

sys.exit(main())
