"""The page on the simulator lists every cohort that `xmae simulate` knows, as it is."""

from pathlib import Path

from xmae_dist.simulate.cohorts import PRESETS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "simulator.md"


def test_every_cohort_is_listed_as_it_is() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    for spec in PRESETS.values():
        worn = " and ".join(f"`{device.name}`" for device in spec.devices) + ", asleep" * spec.asleep
        assert f"| `{spec.name}` | {worn} | {spec.subjects} | {spec.minutes:g} |" in rows
