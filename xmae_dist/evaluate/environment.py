"""With what each fit was made: versions and processor, beside the results.

<out>/environments.json    {"environments": {digest: what it was}, "requests": {request: digest}}

A fit is noted when it is asked for, by the process that asks. One that was lost and is asked for again is noted anew.
About 90 bytes a fit, read and written whole.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterable
from importlib import metadata
from typing import Any

from xmae_dist import __version__
from xmae_dist.core.fingerprint import digest_json
from xmae_dist.storage import uri

ENVIRONMENTS = "environments.json"
_LIBRARIES = ("numpy", "scipy", "torch", "pyarrow", "ray")
"""Those that decide an embedding or a fit, and what brings them together."""


def here() -> dict[str, str]:
    """Versions by name, the interpreter's and the system's kind included; no name of a machine or person."""
    versions = {"xmae_dist": __version__, **{name: metadata.version(name) for name in _LIBRARIES}}
    system = f"{platform.system()} {platform.machine()}"
    return {**versions, "python": platform.python_version(), "system": system, "byte_order": sys.byteorder}


def remember(out_url: str, requests: Iterable[str]) -> None:
    """Notes that these fits are made here and now."""
    now, document = here(), _document(out_url)
    digest = digest_json(now)
    document["environments"][digest] = now
    document["requests"] |= dict.fromkeys(requests, digest)
    uri.write_bytes(uri.join(out_url, ENVIRONMENTS), json.dumps(document, indent=1).encode())


def recalled(out_url: str) -> dict[str, dict[str, str]]:
    """By request; without those of versions that noted nothing."""
    document = _document(out_url)
    return {request: document["environments"][digest] for request, digest in document["requests"].items()}


def _document(out_url: str) -> dict[str, Any]:
    url = uri.join(out_url, ENVIRONMENTS)
    if not uri.exists(url):
        return {"environments": {}, "requests": {}}
    return dict(json.loads(uri.read_bytes(url)))
