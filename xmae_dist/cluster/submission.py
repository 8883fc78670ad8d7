"""Jobs on a cluster by Ray's job server: submitted, followed to their end, found again.

The log comes from the start whenever it is followed, so a connection that breaks loses nothing: what was shown already
is skipped when it is taken up again.
"""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xmae_dist.core.errors import InputError, RunError, UsageError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

# Five minutes together: a head that is lost may come back, as another machine.
_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, *[30.0] * 9)
_NO_EXIT_CODE = 1
_STOPPED = 143


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a job ended."""

    status: int
    """Its exit status; 143 where it was stopped, 1 where nobody knows it."""
    lost: str = ""
    """What the job server says of a job that ended with its machine, and told no exit status."""


class JobServer:
    """The job server of a cluster. `address` is its dashboard's URL; "" takes RAY_API_SERVER_ADDRESS or RAY_ADDRESS.

    Raises RunError where nothing answers there as a job server that takes our token.
    """

    def __init__(self, address: str = "") -> None:
        self._client = _client(address)
        self.address: str = self._client.get_address()

    def submit(self, words: Sequence[str], working_dir: str, submission_id: str) -> None:
        """Starts a job. Raises UsageError for an id that was used before."""
        try:
            self._client.submit_job(
                entrypoint=shlex.join(words),
                submission_id=submission_id,
                runtime_env={"working_dir": working_dir},
            )
        except RuntimeError as error:
            if "already" not in str(error):
                raise RunError("ray job server", value=_first_line(str(error)), expected="a job that starts") from error
            raise UsageError(
                "--name", value=submission_id, expected="a name that no job of this cluster has", fix="choose another"
            ) from error

    def follow(self, submission_id: str, show: Callable[[str], None]) -> Ended:
        """Hands the job's log to `show` as it grows, until the job ends; how it did.

        Raises InputError for a job that the server does not know, RunError where it cannot be reached for five minutes.
        """
        import aiohttp

        shown = 0

        async def tail() -> None:
            nonlocal shown
            at = 0
            async for text in self._client.tail_job_logs(submission_id):
                fresh = text[max(0, shown - at) :]
                at += len(text)
                if fresh:
                    show(fresh)
                    shown = at

        pauses = iter(_PAUSES_S)
        self._info(submission_id)  # names a job that is not there
        while True:
            broken: Exception | None = None
            try:
                asyncio.run(tail())
            except (RuntimeError, OSError, aiohttp.ClientError) as error:
                broken = error
            found = self._info(submission_id)
            ended = _ended(found) if found.status.is_terminal() else None
            if ended is not None and (broken is None or ended.lost):  # of a lost job the log is lost, too
                return ended
            # The log may end a moment before the job does.
            pause_s = next(pauses, None) if broken is not None else _PAUSES_S[0]
            if pause_s is None:
                raise _unreachable(self.address, str(broken)) from broken
            time.sleep(pause_s)

    def _info(self, submission_id: str) -> JobDetails:
        for pause_s in (*_PAUSES_S, None):
            try:
                return self._client.get_job_info(submission_id)
            except RuntimeError as error:
                if "does not exist" in str(error) or "404" in str(error):
                    raise InputError(
                        "job",
                        value=repr(submission_id),
                        expected=f"a job of {self.address}",
                        fix=f"`ray job list --address {self.address}` lists them",
                    ) from error
                if pause_s is None:
                    raise _unreachable(self.address, str(error)) from error
            except OSError as error:
                if pause_s is None:
                    raise _unreachable(self.address, str(error)) from error
            time.sleep(pause_s)
        raise AssertionError("the last pause is None, which raises")


def _client(address: str) -> JobSubmissionClient:
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address or None)
    except (ConnectionError, requests.exceptions.RequestException, AuthenticationError, RuntimeError) as error:
        raise _unreachable(address or "the cluster of RAY_API_SERVER_ADDRESS", str(error)) from error


def _ended(found: JobDetails) -> Ended:
    if found.status == "SUCCEEDED":
        return Ended(status=0)
    if found.status == "STOPPED":
        return Ended(status=_STOPPED)
    if found.driver_exit_code is None:
        return Ended(status=_NO_EXIT_CODE, lost=_first_line(found.message or ""))
    return Ended(status=found.driver_exit_code or _NO_EXIT_CODE)


def _unreachable(address: str, why: str) -> RunError:
    return RunError(
        f"job server of {address}",
        value=_first_line(why),
        expected="a Ray dashboard that answers and takes our token",
        fix="--address http://HEAD:8265 (over `ray dashboard`, an SSH tunnel or kubectl port-forward), "
        "RAY_AUTH_MODE=token with RAY_AUTH_TOKEN_PATH",
    )


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["no answer"])[0][:300]
