"""`xmae COMMAND …`: finds the command's module, parses its options, runs it, and turns errors into one line.

A command module holds a frozen dataclass `Args`, `run(args) -> exit status`, and, where plain dataclass parsing
is not enough, `parse(argv) -> args`. Modules are imported only when called, so `xmae --help` is instant and
`xmae inspect` needs neither torch nor Ray.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from xmae_dist.cli.ending import ended
from xmae_dist.cli.folded import folded, rows
from xmae_dist.core.ranges import check_numbers

COMMANDS: dict[str, str] = {
    "simulate": "write a simulated multi-device cohort with known physiology into a corpus",
    "ingest": "read recordings of a device (WFDB, CSV, Parquet, public data sets) into a corpus on object storage",
    "inspect": "show what a corpus holds: cohorts, hours, subjects, channels, quality; table and picture",
    "verify": "read every stored byte of a corpus and compare it with its digest",
    "withdraw": "remove subjects from a corpus; changes nothing without --apply",
    "readmit": "list withdrawn subjects, or allow their recordings to be ingested again",
    "repair": "list recordings that are stored twice, and drop one copy of each",
    "vacuum": "delete bytes that no snapshot needs; changes nothing without --apply",
    "align": "align recordings of devices with different clocks by their heart beats; estimates and pictures",
    "windows": "cut aligned, cleaned windows out of a corpus snapshot into a window store",
    "export-shards": "write a window store as WebDataset tar shards",
    "import-shards": "create a window store from WebDataset tar shards",
    "plan": "show which windows a rank uses at a step",
    "audit": "list the training steps that used a subject",
    "pretrain": "pretrain an xMAE with Ray Train and DeepSpeed, or continue from the newest complete checkpoint",
    "submit": "run one of these commands as a job on a Ray cluster, and follow its log",
    "export": "write the encoder of a run as a bundle: safetensors, configuration, model card",
    "export-encoder": "write the encoder of a bundle as one file: ONNX, or a torch.export program",
    "evaluate": "probe encoders on downstream tasks in parallel, with controls and subject-wise intervals",
    "report": "write the evaluation report again from stored results",
    "leaderboard": "put the encoders of several evaluations, yours or not, into one table",
    "ppg-bench": "write what the PPG-Bench program needs to evaluate an exported encoder",
    "serve-encoder": "run an encoder as a program: raw PPG windows in, embeddings out, over a pipe",
    "embed": "write embeddings of one cohort to the embedding table, in one commit",
    "reembed": "write embeddings of all new recordings to the embedding table; made for a schedule",
    "neighbours": "find the windows of an embedding table nearest to those of a recording",
    "pool": "write one vector per person or recording from an embedding table, as Parquet",
    "embedding-map": "draw embeddings in two dimensions, by device, person, quality and label",
    "promote": "point an alias of an embedding table to a bundle, if it is no worse than the present one",
    "models": "list the aliases of an embedding table and the bundles with rows in it",
    "retire": "remove all rows of a bundle from an embedding table; changes nothing without --apply",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit status: 0 done, 1 failed, 2 bad usage or input, 143 terminated."""
    argv = list(sys.argv[1:] if argv is None else argv)
    return ended(argv[0] if argv and argv[0] in COMMANDS else "", lambda: _main(argv))


def _main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0 if argv else 2
    if argv[0] == "--version":
        from xmae_dist import __version__

        print(__version__)
        return 0
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        print(f"xmae: error: command: got {name!r}; expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return _run(name, rest)


def _run(name: str, argv: list[str]) -> int:
    from xmae_dist.cli.options import parsed  # imports tyro, which `xmae --help` does not need

    command = importlib.import_module(f"xmae_dist.cli.{name.replace('-', '_')}")
    parse = getattr(command, "parse", None)
    args = parse(argv) if parse else parsed(command.Args, argv, prog=f"xmae {name}")
    check_numbers(args, _option)
    return int(command.run(args))


def _option(path: tuple[str, ...]) -> str:
    """The option that sets a field: sections have no names on the command line, but in `pretrain`."""
    words = path[1:] if path[0] == "config" else path[-1:]
    return "--" + ".".join(words).replace("_", "-")


def _overview() -> str:
    stores = (
        "`xmae COMMAND --help` explains each command. A store is a URL (s3://bucket/path, gs://…, file:///path) or a "
        "path. Endpoint and credentials come from the standard AWS environment or profile, or from Google's default "
        "credentials; they are never options."
    )
    status = (
        "Exit status: 0 done, 1 failed, 2 bad usage or input, 143 terminated by a signal. XMAE_TRACEBACK=1 shows where "
        "an error arose."
    )
    return (
        "usage: xmae COMMAND [options]\n\n"
        "Pretrain biosignal foundation models on Ray, from recordings on object storage.\n\n"
        f"commands:\n{rows(COMMANDS)}\n\n{folded(stores)}\n\n{folded(status)}"
    )


if __name__ == "__main__":
    sys.exit(main())
