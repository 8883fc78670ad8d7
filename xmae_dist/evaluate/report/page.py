"""The report's page: plain HTML with its style and pictures inside, legible on a screen and on paper."""

import base64
import html
import io
from collections.abc import Iterable, Sequence

from matplotlib.figure import Figure

STYLE = """
:root { --ink:#1f2328; --quiet:#57606a; --line:#d8dee4; --soft:#f6f8fa; --accent:#0b5cad; }
* { box-sizing:border-box; }
body { margin:0; background:#fff; color:var(--ink); font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif; }
main { max-width:1020px; margin:0 auto; padding:2.2rem 1.4rem 4rem; }
h1 { font-size:1.75rem; line-height:1.2; margin:0 0 .3rem; }
h2 { font-size:1.25rem; margin:2.6rem 0 .6rem; padding-bottom:.3rem; border-bottom:1px solid var(--line); }
h3 { font-size:1.02rem; margin:1.7rem 0 .3rem; }
p, li { max-width:75ch; } .quiet, figcaption { color:var(--quiet); font-size:.88rem; }
.cards { display:grid; grid-template-columns:repeat(auto-fit,minmax(210px,1fr)); gap:.8rem; margin:1.2rem 0; }
.card { border:1px solid var(--line); border-radius:8px; padding:.75rem .9rem; background:var(--soft); }
.card b { display:block; font-size:1.45rem; line-height:1.2; } .card span { color:var(--quiet); font-size:.85rem; }
.scroll { overflow-x:auto; }
table { border-collapse:collapse; width:100%; font-size:.88rem; font-variant-numeric:tabular-nums; }
th, td { text-align:left; padding:.38rem .6rem; border-bottom:1px solid var(--line); vertical-align:top; }
th { background:var(--soft); font-weight:600; } td.n, th.n { text-align:right; white-space:nowrap; }
td small { color:var(--quiet); display:block; } td.best { font-weight:700; }
tr.family td { background:#fff; color:var(--quiet);
 font-size:.78rem; letter-spacing:.05em; text-transform:uppercase; padding-top:.9rem; }
table.wide { font-size:.74rem; } table.wide th, table.wide td { padding:.3rem .35rem; }
nav { display:flex; flex-wrap:wrap; gap:.2rem 1.1rem; font-size:.88rem; } nav a { color:var(--accent); }
.bar { display:flex; width:160px; height:.8rem; border:1px solid var(--quiet); margin-top:.28rem;
 print-color-adjust:exact; -webkit-print-color-adjust:exact; }
.bar i { display:block; } .bar .up { background:#2e8b45; } .bar .even { background:#fff; }
.bar .down { background:repeating-linear-gradient(45deg,#a4262c 0 3px,#fff 3px 5px); }
.better { color:#1a6e2e; font-weight:600; } .worse { color:#a4262c; font-weight:600; }
figure { margin:1rem 0 1.4rem; } figure img { max-width:100%; height:auto; display:block; }
code { font-size:.85em; background:var(--soft); padding:.08em .3em; border-radius:4px;
 overflow-wrap:anywhere; }
dl { display:grid; grid-template-columns:max-content 1fr; gap:.2rem 1rem; font-size:.9rem; }
dt { color:var(--quiet); } dd { margin:0; }
@media (max-width:600px) { main { padding:1.2rem .8rem 3rem; } table { font-size:.8rem; } .bar { width:56px; }
 th, td { padding:.3rem .32rem; } ul { padding-left:1.1rem; } dl { grid-template-columns:1fr; }
 figure { overflow-x:auto; } figure img { max-width:none; width:760px; } }
details { color:var(--quiet); font-size:.8rem; } details code { margin-right:.4em; }
@media print { nav, details { display:none; } main { max-width:none; padding:0; } body { font-size:10.5pt; }
 h2, h3 { break-after:avoid; }
 figure, tr, .card { break-inside:avoid; } figure h3 { margin-top:.4rem; }
 td, th { padding:.22rem .4rem; } figure img { max-height:235mm; } .scroll { overflow:visible; } a { color:inherit; }
 @page { margin:16mm 14mm; } }
"""


RESULTS, CELLS = "results.parquet", "transfer.parquet"
"""Files beside the page that its figures are made from."""


def document(title: str, body: Iterable[str]) -> str:
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main>\n" + "\n".join(body) + "\n</main></body></html>\n"
    )


def text(value: object) -> str:
    return html.escape(str(value))


def section(name: str, body: Iterable[str]) -> str:
    """A part of the page that `links` leads to."""
    return f'<section id="{_anchor(name)}">' + "\n".join(body) + "</section>"


def links(names: Iterable[str]) -> str:
    """Where to find what; not printed."""
    found = "".join(f'<a href="#{_anchor(name)}">{text(name)}</a>' for name in names)
    return f"<nav>{found}</nav>"


def _anchor(name: str) -> str:
    return text(name.lower().replace(" ", "-"))


def bar(counts: tuple[int, int, int]) -> str:
    """A strip of better, not shown and worse in proportion; drawn by borders and fills that survive print."""
    total = max(sum(counts), 1)
    parts = zip(("up", "even", "down"), counts, strict=True)
    strips = "".join(f'<i class="{name}" style="width:{100 * n / total:.1f}%"></i>' for name, n in parts if n)
    return f'<span class="bar">{strips}</span>'


def table(header: Sequence[str], rows: Iterable[str], *, numeric_from: int = 1, wide: bool = False) -> str:
    """A table from ready rows; headings from column `numeric_from` on are aligned right. `wide`: smaller type."""
    cells = "".join(
        f'<th class="n">{text(h)}</th>' if i >= numeric_from else f"<th>{text(h)}</th>" for i, h in enumerate(header)
    )
    style = ' class="wide"' if wide else ""
    return (
        f'<div class="scroll"><table{style}><thead><tr>{cells}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """A description list; values are HTML already."""
    return "<dl>" + "".join(f"<dt>{text(name)}</dt><dd>{value}</dd>" for name, value in pairs) + "</dl>"


def picture(
    figure: Figure | bytes,
    alternative: str,
    caption: str = "",
    *,
    title: str = "",
    rows: Iterable[str] = (),
    file: str = RESULTS,
) -> str:
    """An <img> with the PNG inside the page; `alternative` says what it shows to those who cannot see it. A `title`
    stays with its picture on paper. `rows`: requests of the rows of `file` that it was made from.
    """
    if isinstance(figure, Figure):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, facecolor="white")
        figure = buffer.getvalue()
    data = base64.b64encode(figure).decode()
    below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    above = f"<h3>{text(title)}</h3>" if title else ""
    image = f'<img alt="{text(alternative)}" src="data:image/png;base64,{data}">'
    return f"<figure>{above}{image}{below}{_made_from(rows, file)}</figure>"


def _made_from(rows: Iterable[str], file: str) -> str:
    """A link to the file, and by which `request` its rows are found there; not printed."""
    names = [f"<code>{text(request)}</code>" for request in dict.fromkeys(rows)]
    if not names:
        return ""
    found = f'{len(names)} row{"s" * (len(names) > 1)} of <a href="{file}">{file}</a>'
    return f"<details><summary>Made from {found}</summary>{' '.join(names)}</details>"
