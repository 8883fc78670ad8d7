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
from xmae_dist.core.ranges import check_numbers

COMMANDS: dict[str, str] = {
    "simulate": "write a simulated multi-device cohort with known physiology into a corpus",
    "ingest": "read recordings of a device (WFDB, CSV, Parquet, public data sets) into a corpus on object storage",
    "inspect": "show what a corpus holds: cohorts, hours, subjects, channels, quality; table and picture",
    "verify": "read every stored byte of a corpus and check it against its digest",
    "withdraw": "take subjects out of a corpus; says what would go unless told to apply",
    "readmit": "take subjects off the list of the withdrawn, which ingests leave out; shows the list",
    "repair": "name recordings that two ingests left in a corpus twice, and drop one copy",
    "vacuum": "remove bytes that no snapshot needs; says what would go unless told to apply",
    "align": "bring devices with clocks of their own onto one clock by their heart beats; table and pictures",
    "windows": "cut aligned, cleaned windows out of a corpus snapshot into a window store",
    "export-shards": "write a window store as WebDataset tar shards, for others to train on",
    "import-shards": "make a window store of WebDataset tar shards, ours or others'",
    "plan": "show which windows a rank sees at a step",
    "audit": "list the steps at which a subject was seen",
    "pretrain": "pretrain an xMAE with Ray Train and DeepSpeed; resumes the newest complete checkpoint",
    "submit": "run one of these commands as a job on a Ray cluster, and follow its log",
    "export": "write the encoder of a run as a bundle: safetensors, configuration, model card",
    "export-encoder": "write the encoder of a bundle as one file for other programs: ONNX, or a torch.export program",
    "evaluate": "probe encoders on downstream tasks in parallel, with controls and subject-wise intervals",
    "report": "make the evaluation report again from its stored results",
    "ppg-bench": "write what the PPG-Bench program needs to evaluate an exported encoder",
    "serve-encoder": "an exported encoder as a program: raw PPG windows in, embeddings out, over a pipe",
    "embed": "embed one cohort into the embedding table, in one commit",
    "reembed": "embed whatever is new since the last time; does nothing where nothing is",
    "neighbours": "find the windows of an embedding table nearest to those of a recording",
    "embedding-map": "draw a bundle's embeddings in two dimensions, by device, person, quality and label",
    "promote": "let an alias of an embedding table mean a bundle, if it is no worse than what it means now",
    "models": "list the aliases of an embedding table and the bundles with rows in it",
    "retire": "take all rows of a bundle out of an embedding table; says what would go unless told to apply",
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
    command = importlib.import_module(f"xmae_dist.cli.{name.replace('-', '_')}")
    parse = getattr(command, "parse", None)
    args = parse(argv) if parse else _parse(command.Args, name, argv)
    check_numbers(args, _option)
    return int(command.run(args))


def _option(path: tuple[str, ...]) -> str:
    """The option that sets a field: sections have no names on the command line, but in `pretrain`."""
    words = path[1:] if path[0] == "config" else path[-1:]
    return "--" + ".".join(words).replace("_", "-")


def _parse(args_type: type, name: str, argv: list[str]) -> object:
    import tyro

    return tyro.cli(args_type, prog=f"xmae {name}", args=argv, config=(tyro.conf.OmitArgPrefixes,))


def _overview() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
    return (
        "usage: xmae COMMAND [options]\n\n"
        "Pretrain biosignal foundation models on Ray, from recordings on object storage.\n\n"
        f"commands:\n{rows}\n\n"
        "`xmae COMMAND --help` explains each. Stores are URLs (s3://bucket/path, gs://…, file:///path or a\n"
        "path); endpoint and credentials come from the standard AWS environment or profile, or Google's default\n"
        "credentials, never from options.\n"
        "Exit status: 0 done, 1 failed, 2 bad usage or input, 143 terminated by a signal. XMAE_TRACEBACK=1 shows\n"
        "where an error arose."
    )


if __name__ == "__main__":
    sys.exit(main())
