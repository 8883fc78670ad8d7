"""`make demo`: the whole mission once, in minutes, on embedded defaults.

A Ray cluster of two raylets and an S3 server come up on loopback; a simulated bedside cohort is written to the
store; `ray job submit` pretrains on it with two DeepSpeed workers, evaluates the encoder beside its controls, and
embeds the cohort; a second cohort arrives, only that one is embedded, and a third tick finds nothing to do. Every
command is shown as a user would type it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from xmae_dist.core.errors import RunError, XmaeError
from xmae_dist.testing.local_cluster import LocalCluster, local_cluster
from xmae_dist.testing.s3_server import serve_s3

PROJECT = Path(__file__).resolve().parents[2]


@dataclass(kw_only=True)
class Demo:
    """One run of the demo: where its objects are, where its report goes, and how long each stage took."""

    store: str
    out: Path
    cluster: LocalCluster
    environment: dict[str, str]
    took_s: dict[str, float] = field(default_factory=dict)

    def job(self, stage: str, *command: str) -> str:
        """`ray job submit` of one of the jobs; returns what it printed, fails as it fails."""
        return self._run(
            stage,
            [_beside_python("ray"), "job", "submit", "--log-style=record", "--log-color=false"]
            + ["--working-dir", str(PROJECT), "--", "python", *command],
            {**self.environment, **self.cluster.environment()},
        )

    def command(self, stage: str, *command: str) -> str:
        """One `xmae` command that needs no cluster."""
        return self._run(stage, [_beside_python("xmae"), *command], self.environment)

    def _run(self, stage: str, command: list[str], environment: dict[str, str]) -> str:
        shown = shlex.join([Path(command[0]).name, *command[1:]]).replace(str(PROJECT), ".")
        print(f"\n=== {stage}\n$ {shown}", flush=True)
        started = time.monotonic()
        said: list[str] = []
        log = self.out / "logs" / f"{len(self.took_s):02d}-{stage.replace(' ', '-')}.log"
        with open(log, "w") as file:
            process = subprocess.Popen(
                command,
                env=environment,
                cwd=PROJECT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for line in process.stdout or ():
                file.write(line)
                said.append(line)
                if not _is_noise(line):
                    print("   " + line.rstrip(), flush=True)
        status = process.wait()
        self.took_s[stage] = time.monotonic() - started
        if status:
            raise RunError(f"demo stage {stage!r}", value=f"exit status {status}", fix=f"read {log}")
        return "".join(said)


def run(demo: Demo) -> Path:
    """All stages in order; returns the path of the report on local disk."""
    corpus, table, run_url = f"{demo.store}/corpus", f"{demo.store}/embeddings", f"{demo.store}/runs/demo"
    bundle, evaluation = f"{demo.store}/bundles/demo", f"{demo.store}/evaluations/demo"
    windows = f"{demo.store}/windows"
    demo.job("simulate", "jobs/simulate.py", "bedside", "--corpus", corpus, "--hours", "20")
    demo.command("inspect", "inspect", corpus, "--picture", str(demo.out / "corpus.png"))
    demo.job(
        "pretrain",
        "jobs/pretrain.py",
        "demo_cpu2",
        "--corpus",
        corpus,
        "--windows",
        windows,
        "--run",
        run_url,
    )
    demo.command("export", "export", "--run", run_url, "--out", bundle)
    demo.job(
        *("evaluate", "jobs/evaluate.py", "--corpus", corpus, "--windows", windows, "--bundle", bundle),
        *("--suite", "simulated", "--skip-unusable", "--run", run_url, "--out", evaluation),
    )
    reembed = ("jobs/reembed.py", "--corpus", corpus, "--bundle", bundle, "--table", table)
    demo.job("embed the first cohort", *reembed)
    demo.job("a ring cohort arrives", "jobs/simulate.py", "ring", "--corpus", corpus, "--hours", "2")
    demo.job("embed only what is new", *reembed)
    demo.job("nothing new", *reembed)
    demo.command("report", "report", evaluation, "--run", run_url, "--out", str(demo.out / "report"))
    return demo.out / "report" / "report.html"


def on_embedded_store(mission: Callable[[Demo], Path], out: Path) -> int:
    """Runs a mission on an S3 server and a Ray cluster of two raylets; prints times and the report's path."""
    shutil.rmtree(out, ignore_errors=True)
    (out / "logs").mkdir(parents=True)
    started = time.monotonic()
    try:
        with (
            serve_s3() as server,
            local_cluster(raylets=2, num_cpus=3, environment=_for_nodes(server.environment())) as cluster,
        ):
            print(f"S3 server and a Ray cluster of two raylets are up after {time.monotonic() - started:.0f} s")
            demo = Demo(
                store=server.bucket_url("xmae"),
                out=out,
                cluster=cluster,
                environment={**os.environ, **server.environment()},
            )
            report = mission(demo)
    except XmaeError as error:
        print(f"{error}", file=sys.stderr)
        return error.exit_status
    print("\nstage                        seconds")
    for stage, seconds in demo.took_s.items():
        print(f"{stage:<28} {seconds:7.1f}")
    print(f"{'all':<28} {time.monotonic() - started:7.1f}\n\nreport: {report}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for report, figures and logs")
    return on_embedded_store(run, parser.parse_args().out.resolve())


def _for_nodes(storage: dict[str, str]) -> dict[str, str]:
    # `python` in a job's entry point must be the one of this environment.
    return {**storage, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def _beside_python(program: str) -> str:
    return str(Path(sys.executable).with_name(program))


def _is_noise(line: str) -> bool:
    # Ray's own hints on how to ask for the job again; the full text is in the stage's log.
    return any(
        mark in line
        for mark in (
            "cli.py:",
            "working_dir.py:",
            "dashboard_sdk.py:",
            "packaging.py:",
            "sdk.py:",
            "job_manager.py:",
            "core_worker.cc:",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
