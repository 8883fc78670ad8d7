"""`xmae submit [options] COMMAND …`: one of our commands as a job on a Ray cluster, its log here."""

from __future__ import annotations

import dataclasses
import inspect
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from xmae_dist.cli.options import parsed
from xmae_dist.cluster.package import pack
from xmae_dist.cluster.submission import JobServer
from xmae_dist.core.errors import UsageError

JOBS = ("pretrain", "windows", "ingest", "simulate", "align", "verify", "export", "evaluate", "embed", "reembed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Run `xmae COMMAND …` as a job on a Ray cluster and follow its log.

    The job is sent the source of this package and the files that the command names. Data is read from URLs, with the
    credentials of the cluster's machines. Ctrl-C stops following the log; the job continues. The exit status is that of
    the job (143: it was stopped).
    """

    address: str = ""
    """URL of the cluster's dashboard, http://HEAD:8265. Empty: RAY_API_SERVER_ADDRESS or RAY_ADDRESS."""
    name: str = ""
    """Name of the job, unique in the cluster; a name is generated if not given."""
    follow: bool = True
    """Show the log until the job ends; otherwise return after submitting."""
    attach: str = ""
    """Submit nothing: follow the job of this name."""
    command: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()
    """The command and its options."""


def parse(argv: Sequence[str]) -> Args:
    """Options of ours come before the command, all after it are the command's. Raises UsageError without one."""
    at = next((number for number, word in enumerate(argv) if word in JOBS), len(argv))
    own, command = [word for word in argv[:at] if word != "--"], tuple(argv[at:])
    options = parsed(Args, own, prog="xmae submit", description=_help())
    if bool(command) == bool(options.attach):
        raise UsageError(
            "submit",
            value=" ".join(argv) or "no command",
            expected=f"a command ({', '.join(JOBS)}) with its options, or --attach NAME",
            fix="for example `xmae submit pretrain debug_cpu2 --corpus s3://… --run s3://…`",
        )
    return dataclasses.replace(options, command=command)


def _help() -> str:
    commands = f"COMMAND: {', '.join(JOBS)}; options of `xmae submit` come before it."
    return f"{inspect.cleandoc(Args.__doc__ or '')}\n\n{commands}"


def run(args: Args) -> int:
    server = JobServer(args.address)
    if args.attach:
        return _follow(server, args.attach)
    name = args.name or f"xmae-{args.command[0]}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    with tempfile.TemporaryDirectory(prefix="xmae-job-") as folder:
        package = pack(args.command, Path(folder))
        _tell(f"sending {package.n_files} files, {package.size_bytes / 2**20:.1f} MiB, to {server.address}")
        server.submit(("python", "-m", "xmae_dist.cli", *package.words), folder, name)
    _tell(f"job {name} submitted")
    _tell(f"  follow it again   xmae submit --address {server.address} --attach {name}")
    _tell(f"  stop it           ray job stop {name} --address {server.address}")
    _tell(f"  all jobs          ray job list --address {server.address}")
    return _follow(server, name) if args.follow else 0


def _follow(server: JobServer, name: str) -> int:
    try:
        ended = server.follow(name, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        _tell(f"\nno longer following: job {name} goes on")
        raise  # how it ends is not known here, so the status must not say that it went well
    if ended.lost:
        _tell(f"job {name} was lost with its machine: {ended.lost}")
        _tell("  submitted again, the same command goes on from what is stored")
    _tell(f"job {name} ended with status {ended.status}")
    return ended.status


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
