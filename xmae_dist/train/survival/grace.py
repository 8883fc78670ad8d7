"""How long a job that is stopped is waited for, told when it starts: too little, and it is killed while it saves."""

from __future__ import annotations

from collections.abc import Mapping

_VARIABLE = "RAY_JOB_STOP_WAIT_TIME_S"
_DEFAULT_S = 3
"""Ray's own, where the head was started without the variable."""
_ENOUGH_S = 30
"""A step, and the shards of a checkpoint on their way."""


def short_grace(environment: Mapping[str, str]) -> str:
    """What to tell the one who submitted this job about `ray job stop`; "" outside a job, or where there is time.

    A job's environment is that of its head, where the setting takes effect, plus its own.
    """
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in environment:
        return ""
    try:
        waits_s = int(environment.get(_VARIABLE, _DEFAULT_S))
    except ValueError:
        waits_s = _DEFAULT_S
    if waits_s >= _ENOUGH_S:
        return ""
    return (
        f"`ray job stop` waits {waits_s} s for this run and then kills it: it may lose what it did since the last "
        f"checkpoint. fix: start the head with {_VARIABLE}={_ENOUGH_S}, or submit with "
        f'--runtime-env-json \'{{"env_vars": {{"{_VARIABLE}": "{_ENOUGH_S}"}}}}\''
    )
