"""`make pictures`: every picture that the product draws, in one folder, from small simulated data.

For whoever changes a picture, to be looked at before and after. Runs the commands as a user would, on a folder of this
machine; the model is trained for a minute and its figures mean nothing.
"""

from __future__ import annotations

import argparse
import base64
import re
import shutil
import subprocess
import sys
from pathlib import Path

_PICTURE = re.compile(r'<img alt="([^"]*)" src="data:image/png;base64,([^"]+)"')


def draw_all(out: Path) -> list[Path]:
    """Draws all pictures below `out`; returns their paths. Raises CalledProcessError where a command fails."""
    work, corpus = out / "work", str(out / "work/corpus")
    windows, run, bundle, evaluation, table = (
        str(work / name) for name in ("windows", "run", "bundle", "evaluation", "embeddings")
    )
    _xmae("simulate", "bedside", "--corpus", corpus, "--subjects", "60", "--minutes", "5")
    _xmae("simulate", "patch_watch", "--corpus", corpus, "--subjects", "4", "--minutes", "12")
    _xmae("inspect", corpus, "--picture", str(out / "inspect.png"))
    _xmae("align", "--corpus", corpus, "--out", str(out / "align"))
    training = (
        "--train.workers",
        "1",
        "--engine.kind",
        "torch",
        "--train.steps",
        "120",
        "--validation.every-steps",
        "20",
    )
    _xmae(
        *("pretrain", "demo_cpu2", "--corpus", corpus, "--run", run, "--windows", windows, "--cohorts", "bedside"),
        *training,
    )
    for picture in (work / "run/figures").glob("*.png"):
        shutil.copy(picture, out / f"pretrain-{picture.name}")
    _xmae("export", "--run", run, "--out", bundle)
    _xmae(
        *("evaluate", "--windows", windows, "--bundle", bundle, "--suite", "simulated", "--skip-unusable"),
        *("--run", run, "--out", evaluation, "--protocols", "linear", "few", "--degrade", "noise"),
        *("--tasks", "heart_rate", "hypertension", "pulse_arrival", "--max-windows-per-recording", "8"),
    )
    shutil.copy(work / "evaluation/report/report.html", out / "report.html")
    _unpack(out / "report.html", out / "report")
    _xmae("reembed", "--corpus", corpus, "--bundle", bundle, "--table", table, "--report", str(out / "ticks"))
    _xmae(
        *("embedding-map", "--corpus", corpus, "--table", table, "--bundle", bundle, "--label", "age"),
        *("--out", str(out / "embedding-map.png")),
    )
    subprocess.run([sys.executable, "-m", "xmae_dist.simulate.gallery", str(out / "simulator.png")], check=True)
    return sorted(out.glob("*.png")) + sorted(out.glob("align/*.png")) + sorted(out.glob("report/*.png"))


def _xmae(*command: str) -> None:
    print("$ xmae", *command, flush=True)
    subprocess.run([sys.executable, "-m", "xmae_dist.cli", *command], check=True)


def _unpack(page: Path, folder: Path) -> None:
    """Writes the pictures inside a report as files, named after what they show."""
    folder.mkdir()
    for number, (shows, data) in enumerate(_PICTURE.findall(page.read_text())):
        name = re.sub(r"[^a-z0-9]+", "-", shows.lower())[:60].strip("-")
        (folder / f"{number:02d}-{name}.png").write_bytes(base64.b64decode(data))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("pictures-out"), help="folder, which is made anew")
    out = parser.parse_args().out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for picture in draw_all(out):
        print(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
