"""How Google Cloud Storage is reached: by Google's default credentials, or at an emulator of its protocol."""

from __future__ import annotations

import json
import os
from typing import Any

from fsspec import AbstractFileSystem

EMULATOR_VARIABLE = "STORAGE_EMULATOR_HOST"


def gs_filesystem(**options: Any) -> AbstractFileSystem:
    """A client with Google's default credentials; it never falls back to nobody's, which would be refused much later.

    Raises what google.auth raises where there are none, ImportError where the client is not installed.
    """
    from gcsfs.core import GCSFileSystem  # not the variant that asks another service about each bucket first

    return GCSFileSystem(token="anon" if os.environ.get(EMULATOR_VARIABLE) else "google_default", **options)


def gs_delta_options() -> dict[str, str]:
    """What delta-rs must be told to reach the same store: of an emulator, which it does not look for."""
    endpoint = os.environ.get(EMULATOR_VARIABLE, "")
    if not endpoint:
        return {}
    nobody = {
        "gcs_base_url": endpoint,
        "disable_oauth": True,
        "client_email": "",
        "private_key": "",
        "private_key_id": "",
    }
    allow = str(endpoint.startswith("http://")).lower()
    return {"google_service_account_key": json.dumps(nobody), "allow_http": allow}


def probe_gs(fs: AbstractFileSystem, path: str, timeout_s: float) -> None:
    """One small listing of the bucket. Raises what the client raises; FileNotFoundError where there is no bucket."""
    bucket, _, key = path.partition("/")
    fs.call("GET", "b/{}/o", bucket, prefix=key, maxResults=1, json_out=True, timeout=timeout_s)
