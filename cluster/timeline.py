"""A pretraining run on machines that Ray's autoscaler adds, replaces and removes, all on this one, as a timeline.

    python cluster/timeline.py [--folder FOLDER] [--json FILE]

Demand, nodes, the first step, growth from one worker to three, a spot notice, a killed machine, the end, and when the
idle nodes are gone. Takes about five minutes of two cores. The corpus (simulated) and the run are kept with --folder;
`bench/spot.py --story FILE` replays the JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from xmae_dist.core.errors import XmaeError
from xmae_dist.testing.timeline import IDLE_TIMEOUT_S, play, record


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="an empty folder for corpus and run; by default they are removed")
    parser.add_argument("--json", type=Path, help="file for what bench/spot.py replays")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="xmae-timeline-") as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        corpus = str(folder / "corpus")
        words = ["simulate", "bedside", "--corpus", corpus, "--subjects", "8", "--minutes", "10"]
        subprocess.run([sys.executable, "-m", "xmae_dist.cli", *words], check=True, stdout=subprocess.DEVNULL)
        try:
            story = play(corpus, str(folder / "run"), lambda line: print(line, flush=True))
        except XmaeError as error:
            print(f"cluster/timeline.py: error: {error}", file=sys.stderr)
            return error.exit_status
        if options.json:
            options.json.write_text(json.dumps(record(story, str(folder / "run")), indent=1))
    after_s = story.idle_nodes_gone_after_s
    print(f"idle nodes were gone {after_s:.0f} s after the job's end (idle timeout {IDLE_TIMEOUT_S:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
