"""Which windows the store of an evaluation kept, by rhythm and ectopy: what it was measured on, and what it was not.

<out>/kept.json    by fingerprint of the window store, beside the results
"""

from __future__ import annotations

import json
from dataclasses import asdict

from xmae_dist.data.store.kept import KeptGroup
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.storage import uri

KEPT = "kept.json"


def remember(out_url: str, store: WindowStore) -> None:
    """Keeps the shares of a store beside the results; a store that does not say leaves nothing."""
    if store.sources() is None:
        return
    known = recalled(out_url) | {store.fingerprint: store.kept()}
    document = {name: [asdict(group) for group in groups] for name, groups in known.items()}
    uri.write_bytes(uri.join(out_url, KEPT), json.dumps(document, indent=1).encode())


def recalled(out_url: str) -> dict[str, list[KeptGroup]]:
    """By fingerprint of the window store."""
    url = uri.join(out_url, KEPT)
    if not uri.exists(url):
        return {}
    return {name: [KeptGroup(**one) for one in groups] for name, groups in json.loads(uri.read_bytes(url)).items()}
