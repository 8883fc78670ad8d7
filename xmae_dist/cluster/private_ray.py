"""A Ray of this process alone, on this machine: strangers are refused, and a folder it cannot use is told at once.

Ray's servers listen on every interface whatever address they are told, and run what they are sent. So a private Ray
takes only what carries its token: a random one, which this process and the workers that it starts know.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xmae_dist.core.errors import RunError

_MODE, _TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
_ROOM_BYTES = 64 * 2**20
"""Sockets, logs and the session's files; what spills or is packaged comes on top."""
_TRIES = 2
# What Ray says of a server that took more than its own, fixed patience of 30 s: the machine is busy.
_TOO_SLOW = "timed out during startup"


def start(**options: Any) -> None:
    """`ray.init("local")` with `options`, open to nobody but this process and its workers. Tried twice where the
    machine is too busy for Ray's patience of 30 s.

    Raises RunError where Ray's folder cannot be written or is full, or where Ray does not come up.
    """
    _check_folder()
    for left in reversed(range(_TRIES)):
        try:
            _start(options)
            return
        except RunError as error:
            if not left or not too_slow(error):
                raise


def too_slow(error: RunError) -> bool:
    """Whether a Ray that did not come up was only given too little time, so that another try may succeed."""
    return _TOO_SLOW in str(error)


def _start(options: dict[str, Any]) -> None:
    import ray

    with _own_token():
        try:
            # RAY_ADDRESS may name a job server: "local" has the last word.
            ray.init("local", include_dashboard=False, **options)
        except Exception as error:  # Ray raises Exception itself where a server does not come up
            ray.shutdown()
            raise RunError(
                "Ray on this machine",
                value=str(error).strip().splitlines()[0],
                expected="a local Ray that comes up",
                fix=f"see the logs below {_folder()}/session_latest/logs; a busy machine may need another try",
            ) from error


@contextlib.contextmanager
def _own_token() -> Iterator[None]:
    """A new token in the environment while Ray starts, which is when it and its servers read it.

    Afterwards the environment is as before: what else this process starts is none of Ray's.
    """
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    before = {name: os.environ.get(name) for name in (_MODE, _TOKEN)}
    os.environ.update({_MODE: "token", _TOKEN: secrets.token_hex(32)})
    Config.initialize("")  # Ray reads the mode when it is imported, which may have been earlier
    AuthenticationTokenLoader.instance().reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _folder() -> Path:
    from ray._common.utils import get_default_ray_temp_dir

    return Path(get_default_ray_temp_dir())


def _check_folder() -> None:
    """Ray itself would wait half a minute for a server that could not write, and then name something else."""
    folder = _folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(4096))
            probe.flush()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise _unusable(folder, error.strerror or str(error)) from error
    if free < _ROOM_BYTES:
        raise _unusable(folder, f"{free / 2**20:.0f} MiB free")


def _unusable(folder: Path, why: str) -> RunError:
    return RunError(
        f"Ray's folder {folder}",
        value=why,
        expected=f"a folder that can be written, with {_ROOM_BYTES // 2**20} MiB free",
        fix="free some space, or name another folder: RAY_TMPDIR=/path (a short one: sockets lie in it)",
    )
