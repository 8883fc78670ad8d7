"""`xmae withdraw`: takes subjects out of a corpus, as when consent is withdrawn."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import tyro

from xmae_dist.cli.withdrawal_proof import begin_proof
from xmae_dist.core.errors import InputError
from xmae_dist.core.fingerprint import sha256_hex
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.snapshot import Recording


@dataclass(frozen=True, kw_only=True)
class Args:
    """Remove subjects from a corpus: creates a snapshot without them. Older snapshots that hold them no longer open.

    The subjects are added to the list of withdrawn people: later ingests leave out their files until `xmae readmit`.
    Without --apply nothing is changed; the command shows what would be removed. Rows are removed immediately from the
    corpus, the embedding tables (--table) and the results of evaluations (--evaluation), in separate commits. After an
    interruption, run the same command again to continue. `xmae vacuum` later deletes the bytes, and window stores that
    hold the subjects. Trained models are not changed: --run lists the checkpoints that saw a subject.
    """

    corpus: Annotated[str, tyro.conf.Positional]
    """URL of the corpus."""
    subject: tuple[str, ...]
    """Ids of the subjects to withdraw."""
    reason: str = ""
    """Reason, stored in the history of the index."""
    table: tuple[str, ...] = ()
    """URLs of embedding tables of this corpus: with --apply, rows of these subjects are removed, for every bundle."""
    evaluation: tuple[str, ...] = ()
    """URLs of evaluations (--out of `xmae evaluate`): with --apply, predictions of these subjects are removed from
    their results, and scores are computed again without them."""
    run: tuple[str, ...] = ()
    """URLs of pretraining runs: list the checkpoints that saw these subjects. Needs the window stores of the runs."""
    proof: str = ""
    """With --apply: file or URL of the proof, a JSON document. `xmae vacuum --proof` completes it."""
    absent: bool = False
    """Accept subjects that are not in the corpus: they are added to the list, so that later ingests leave them out."""
    apply: bool = False
    """Make the change."""
    json: bool = False
    """Print one JSON object."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    corpus = Corpus.open(args.corpus)
    theirs = list(corpus.snapshot().recordings([("subject_id", "in", sorted(set(args.subject)))]))
    unknown = sorted(set(args.subject) - {one.subject_id for one in theirs})
    _check_known(corpus, unknown, args.absent)
    stores = [url for url in uri.list_urls(uri.join(corpus.url, "windows")) if uri.exists(uri.join(url, "store.json"))]
    # Before anything is taken away: which windows a run saw is worked out from its store.
    models = [_models(run, subject) for run in args.run for subject in sorted(set(args.subject))]
    outcome = _Outcome(theirs=theirs, absent=unknown, stores=stores, models=models, applied=args.apply)
    if args.apply:
        outcome = _applied(args, corpus, outcome)
    if args.json:
        print(json.dumps(_summary(outcome)))
    else:
        _show(outcome)
    return 0


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    theirs: list[Recording]
    absent: list[str]
    stores: list[str]
    models: list[dict[str, Any]]
    applied: bool
    version: int | None = None
    left: dict[str, int] = field(default_factory=dict)
    """Recordings that left each embedding table."""
    results: dict[str, int] = field(default_factory=dict)
    """Results of each evaluation from which predictions were taken."""


def _check_known(corpus: Corpus, unknown: list[str], absent: bool) -> None:
    """Whoever is on the list already was withdrawn by this command, which was perhaps interrupted."""
    strangers = sorted(set(unknown) - corpus.withdrawn.read().subjects) if unknown and not absent else []
    if strangers:
        raise InputError(
            f"--subject of {corpus.url}",
            value=", ".join(strangers),
            expected="subjects of the newest snapshot, or withdrawn ones",
            fix="see `xmae inspect`; `xmae readmit` lists earlier withdrawals; --absent keeps out subjects that are "
            "not here",
        )


def _applied(args: Args, corpus: Corpus, outcome: _Outcome) -> _Outcome:
    """The proof is begun first: whoever goes on after an interruption would not find the recordings any more."""
    if args.proof:
        begin_proof(args.proof, corpus, outcome.theirs, outcome.absent, _without_names(outcome.models))
    listed = corpus.withdrawn.read().subjects.intersection(outcome.absent)
    version = corpus.withdraw([one for one in args.subject if one not in listed], reason=args.reason)
    left = {url: _left(corpus.url, url) for url in map(uri.checked_place, args.table)}
    results = {url: _taken_out(url, args.subject) for url in map(uri.checked_place, args.evaluation)}
    return replace(outcome, version=version, left=left, results=results)


def _taken_out(evaluation_url: str, subjects: Sequence[str]) -> int:
    from xmae_dist.evaluate.withdrawal import take_out  # needs SciPy, which a corpus does not

    return take_out(evaluation_url, subjects)


def _models(run: str, subject: str) -> dict[str, Any]:
    from xmae_dist.cli.audit import checkpoints_that_saw  # needs torch, which a corpus does not

    return {"subject": subject, **checkpoints_that_saw(run, subject)}


def _without_names(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"person": sha256_hex(one["subject"].encode()), **{name: one[name] for name in one if name != "subject"}}
        for one in models
    ]


def _left(corpus_url: str, table_url: str) -> int:
    from xmae_dist.embed.backlog import View
    from xmae_dist.embed.pipeline import take_away_all_who_left  # needs Ray and torch, which a corpus does not

    done = take_away_all_who_left(View.of(corpus_url, table_url))
    return sum(one.withdrawn for one in done.values() if one)


def _summary(done: _Outcome) -> dict[str, object]:
    return {
        "applied": done.applied,
        "snapshot": done.version,
        "subjects": sorted({one.subject_id for one in done.theirs}),
        "absent": done.absent,
        "recordings": dict(Counter(one.cohort for one in done.theirs)),
        "hours": round(sum(one.duration_s for one in done.theirs) / 3600, 3),
        "window_stores": done.stores,
        "embedding_tables": done.left,
        "evaluations": done.results,
        "models": done.models,
    }


def _show(done: _Outcome) -> None:
    verb = "withdrawn" if done.applied else "would be withdrawn"
    for subject in sorted({one.subject_id for one in done.theirs}):
        own = [one for one in done.theirs if one.subject_id == subject]
        hours = sum(one.duration_s for one in own) / 3600
        cohorts = ", ".join(sorted({one.cohort for one in own}))
        print(f"{subject}: {len(own)} recording(s), {hours:.2f} h, of {cohorts} {verb}")
    for subject in done.absent:
        print(f"{subject}: no recordings; their files {'are' if done.applied else 'would be'} left out of new ingests")
    if done.stores:
        print("window stores that may hold their windows (`xmae vacuum --windows` deletes those that do):")
        print("\n".join(f"  {url}" for url in done.stores))
    for url, recordings in done.left.items():
        print(f"{url}: {recordings} embedded recording(s) left the table")
    for url, results in done.results.items():
        print(f"{url}: their predictions left {results} result(s), scored again without them")
    for one in done.models:
        steps = " ".join(str(row["step"]) for row in one["checkpoints"]) or "none"
        print(f"{one['run']}: {one['subject']} seen {one['seen_windows']} times; checkpoints that saw them: {steps}")
    if not done.applied:
        print("nothing was changed: add --apply to do it")
    elif done.version is not None:
        print(f"snapshot {done.version} does not contain them; `xmae vacuum` deletes their bytes")
