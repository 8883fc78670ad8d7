"""The last sections of the report: which encoders were compared, and how it was measured."""

from xmae_dist.evaluate.encoders.pretrained import Pretrained
from xmae_dist.evaluate.report import page
from xmae_dist.evaluate.results import Result


def named_encoders(results: list[Result]) -> list[tuple[str, str, str]]:
    """(name, role, identity) of each encoder, controls last."""
    named = dict.fromkeys((r.encoder, r.role, r.encoder_id) for r in results)
    return sorted(named, key=lambda one: one[1] != "encoder")


def encoders_section(results: list[Result], known: dict[str, Pretrained]) -> list[str]:
    """Which encoders these are: identity, bundle, and what they were pretrained on."""
    rows = []
    for name, role, identity in named_encoders(results):
        one = known.get(identity, Pretrained(trained=True))
        steps, windows = ("–" if n is None else f"{n:,}" for n in (one.steps, one.windows))
        rows.append(
            f"<tr><td>{page.text(name)}<small>{page.text(role)}</small></td><td>{page.text(_pretraining_of(one))}</td>"
            f"<td>{_code(identity)}<small>{_code(one.url)}</small></td><td>{_code(one.snapshot)}</td>"
            f'<td class="n">{steps}</td><td class="n">{windows}</td></tr>'
        )
    return [
        "<h2>Encoders</h2>",
        page.table(
            ["Encoder", "Pretraining", "Identity, bundle", "Corpus snapshot", "Steps", "Windows"], rows, numeric_from=4
        ),
        '<p class="quiet">Windows: those trained on, repeats included. A dash: the bundle does not state it.</p>',
    ]


def _pretraining_of(one: Pretrained) -> str:
    if not one.trained:
        return "none: never trained"
    return f"pretrained on {', '.join(one.cohorts)}" if one.cohorts else "cohorts not stated"


def _code(value: str) -> str:
    return f"<code>{page.text(value)}</code>" if value else "–"


def methods_section(results: list[Result], skipped: dict[str, str]) -> list[str]:
    first = results[0]
    facts = [
        ("window store", f"<code>{page.text(first.store)}</code>"),
        ("seed", str(first.seed)),
        ("bootstrap draws", f"{first.n_replicates:,}"),
    ]
    left_out = [f"<li><b>{page.text(name)}</b>: {page.text(why)}</li>" for name, why in skipped.items()]
    return [
        "<h2>How this was measured</h2>",
        "<ul><li>The encoder is frozen. Embeddings are standardised on the training subjects; the probe is ridge "
        "regression or L2 logistic regression. For recording and subject tasks, embeddings of the unit's windows are "
        "averaged.</li>"
        "<li>Outer folds share no subject; the penalty is chosen by inner cross-validation, again by subject. "
        "AUROC and AUPRC compare predictions within a fold only.</li>"
        "<li>Intervals resample subjects, not windows, and are widened by the measured covariance between folds that "
        "train on one another; draws are the same for all encoders of a task.</li>"
        "<li>Pretraining saw signals, never labels. How many of the people of a task it may have seen is told "
        "above.</li>"
        "<li>Predictions, folds and their digests are in <code>results.parquet</code>: every figure here can be "
        "computed again.</li></ul>",
        page.definitions(facts),
        *(["<h3>Left out</h3><ul>", *left_out, "</ul>"] if left_out else []),
    ]
