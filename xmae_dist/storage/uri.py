"""Object-store and local URLs: one small set of operations, the same on `file://`, `s3://` and `gs://`.

Endpoint, region and credentials come from the standard AWS (or Google) environment and credential chain only;
no function here takes, stores or prints a secret.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import posixpath
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec import AbstractFileSystem

from xmae_dist.core.errors import InputError, StorageError
from xmae_dist.storage.diagnose import client_errors, storage_errors
from xmae_dist.storage.gs_access import EMULATOR_VARIABLE, gs_delta_options, gs_filesystem, probe_gs
from xmae_dist.storage.s3_access import new_session, region_options, s3_access

__all__ = [
    "PATIENCE_VARIABLE",
    "StoredObject",
    "checked_place",
    "create_exclusively",
    "delete",
    "delta_options",
    "download_tree",
    "exists",
    "filesystem",
    "is_local",
    "join",
    "keeps_old_versions",
    "list_details",
    "list_urls",
    "local_path",
    "normalise",
    "path_below",
    "patience_s",
    "probe",
    "probe_conditional_put",
    "read_bytes",
    "read_ranges",
    "size",
    "storage_errors",
    "upload_tree",
    "write_bytes",
]

SCHEMES = ("file", "s3", "gs")
_SCHEME_SLIP = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/|(?:file|s3|gs):", re.IGNORECASE)
# delta-rs takes a URL apart (%20 is a space, # and ? end the path, \ is /, [ ] ^ | end it with a panic), s3fs ends a
# key at ?versionId=, and fsspec expands * ? [ in what it removes.
_TWO_MEANINGS = re.compile(r"[%#?*\[\]\\^|\x00-\x1f\x7f-\x9f]")

# Short enough that a dead endpoint is told within seconds, long enough for a busy store.
_CONNECT_TIMEOUT_S = 2.5
_PROBE_READ_TIMEOUT_S = 4
_PROBE_GS_S = 10.0

_FOLDER_ATTEMPTS = 20

# The clients' own limits multiply (attempts within retries), and a body that drips in, or is not taken, never meets
# them: reads and writes have a deadline of their own, which covers all of their attempts.
PATIENCE_VARIABLE = "XMAE_STORE_PATIENCE_S"
_PATIENCE_S = 60.0
_SLOWEST_BYTES_S = 100_000.0
_WHOLE_OBJECT_FACTOR = 30  # their size is not known beforehand: half an hour

_filesystems: dict[tuple[object, ...], AbstractFileSystem] = {}
_filesystems_lock = threading.Lock()
_sessions: dict[tuple[int, object], Any] = {}  # by process and environment
_bucket_regions: dict[int, dict[str, str]] = {}  # by the file system, which is kept as long as this


def normalise(url: str | os.PathLike[str]) -> str:
    """`url` with a scheme and without a trailing slash; a plain path becomes an absolute `file://` URL.

    Nothing in it is quoted or unquoted: `%20` is these three characters. Raises StorageError for a scheme we do not
    know, one without its two slashes, or a bucket URL without a bucket.
    """
    text = os.fspath(url)
    if "://" not in text:
        if _SCHEME_SLIP.match(text):
            raise _not_a_url(text, "write the two slashes after the scheme, or ./ before a path with a colon")
        return "file://" + os.path.abspath(os.path.expanduser(text))
    scheme, _, rest = text.partition("://")
    if scheme not in SCHEMES:
        raise _not_a_url(text, "use one of these forms")
    if scheme == "file":
        path = rest.removeprefix("localhost")
        if not path.startswith("/"):
            raise _not_a_url(text, "write three slashes before an absolute path, or the path alone")
        return "file://" + os.path.abspath(path)
    rest = rest.strip("/")
    if not rest:
        raise StorageError("store URL", value=repr(text), expected=f"{scheme}://bucket/key", fix="name a bucket")
    return f"{scheme}://{rest}"


def _not_a_url(text: str, fix: str) -> StorageError:
    expected = "s3://bucket/key, gs://bucket/key, file:///path or a path"
    return StorageError("store URL", value=repr(text), expected=expected, fix=fix)


def checked_place(url: str | os.PathLike[str]) -> str:
    """`normalise(url)`, if every client takes it for the same place. Raises StorageError otherwise.

    Whatever writes goes through here, before the first byte: two spellings that one client takes for one place and
    another for two would mix what is stored there.
    """
    place = normalise(url)
    path = place.partition("://")[2]
    levels = path.removeprefix("/").split("/") if path != "/" else []
    odd = _TWO_MEANINGS.search(path)
    bad = [level for level in levels if level in ("", ".", "..") or level != level.strip()]
    if odd or bad:
        raise StorageError(
            "store URL",
            value=f"{place!r}, with {(odd.group() if odd else bad[0])!r}",
            expected="a place that all clients read alike: no % # ? * [ ] \\ ^ |, no control character, "
            "no empty level, no level '.' or '..', none that begins or ends with a space",
            fix="choose another name; what lies there already may be moved as a whole",
        )
    return place


def join(url: str, *parts: str) -> str:
    """The URL of a key below `url`. Raises InputError for a part that would lead out of it."""
    for part in parts:
        _check_below(url, part)
    return "/".join([url.rstrip("/"), *(part.strip("/") for part in parts if part.strip("/"))])


def path_below(folder: str | Path, name: str) -> Path:
    """The path of a name from outside (a header, a manifest, a listing) below `folder`.

    Raises InputError for a name that would lead out of it.
    """
    if posixpath.isabs(name):
        raise _leads_out(str(folder), name)
    _check_below(str(folder), name)
    return Path(folder) / name


def _check_below(base: str, name: str) -> None:
    if any(level in (".", "..") for level in name.split("/")) or "\0" in name:
        raise _leads_out(base, name)


def _leads_out(base: str, name: str) -> InputError:
    return InputError(
        f"name below {base}",
        value=repr(name),
        expected="one that stays below it: relative, without '.' or '..'",
        fix="do not use what it came from if you do not trust its maker; else correct the name there",
    )


def is_local(url: str) -> bool:
    return normalise(url).startswith("file://")


def local_path(url: str) -> Path:
    """The path of a `file://` URL."""
    return Path(normalise(url).removeprefix("file://"))


def filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """The fsspec filesystem of `url`, and the path that `url` has in it.

    Filesystems are kept per process and per AWS or Google environment: a changed environment gets a new client.
    """
    scheme, _, path = normalise(url).partition("://")
    with storage_errors(url):
        return _filesystem(scheme, probing=False), path


def _filesystem(scheme: str, *, probing: bool) -> AbstractFileSystem:
    ours = ("AWS_", "GOOGLE_", EMULATOR_VARIABLE)
    environment = "\0".join(f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(ours))
    key = (os.getpid(), scheme, probing, patience_s(), hashlib.sha256(environment.encode()).digest())
    with _filesystems_lock:
        if key not in _filesystems:
            _filesystems[key] = _new_filesystem(scheme, probing, key[-1])
        return _filesystems[key]


def _new_filesystem(scheme: str, probing: bool, environment: object) -> AbstractFileSystem:
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if scheme == "file":
        return fsspec.filesystem("file", skip_instance_cache=True)
    if scheme == "s3":
        options["config_kwargs"] = {
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "read_timeout": _PROBE_READ_TIMEOUT_S if probing else patience_s() / 4,
            "retries": {"mode": "standard", "total_max_attempts": 2 if probing else 4},
            "max_pool_connections": 32,
        }
    try:
        if scheme == "gs":
            return gs_filesystem(**options)
        if scheme == "s3":
            if (os.getpid(), environment) not in _sessions:
                _sessions[os.getpid(), environment] = new_session()
            options |= {"session": _sessions[os.getpid(), environment], "client_kwargs": region_options()}
        fs = fsspec.filesystem(scheme, **options)
    except ImportError as error:
        raise StorageError(
            f"{scheme}:// URLs",
            value=f"no {error.name or 'client'} installed",
            expected="the client of this store",
            fix="pip install 'xmae_dist[gcs]'" if scheme == "gs" else "pip install s3fs",
        ) from None
    if scheme == "s3" and probing:
        fs.retries = 1
    return fs


def patience_s() -> float:
    """Seconds for which a store that does not serve is asked again (XMAE_STORE_PATIENCE_S)."""
    text = os.environ.get(PATIENCE_VARIABLE, "")
    try:
        seconds = float(text or _PATIENCE_S)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise StorageError(PATIENCE_VARIABLE, value=repr(text), expected="seconds above 0")
    return seconds


def _within(fs: AbstractFileSystem, seconds: float) -> dict[str, float]:
    """The option that bounds a call of a remote client; local files have none."""
    return {"timeout": seconds} if fs.async_impl else {}


def _within_bytes(fs: AbstractFileSystem, size: int) -> dict[str, float]:
    return _within(fs, patience_s() + size / _SLOWEST_BYTES_S)


def read_bytes(url: str) -> bytes:
    """The whole object. Raises StorageError where there is none."""
    fs, path = filesystem(url)
    with storage_errors(url):
        return bytes(fs.cat_file(path, **_within(fs, patience_s() * _WHOLE_OBJECT_FACTOR)))


def read_ranges(url: str, starts: Sequence[int], stops: Sequence[int]) -> list[bytes]:
    """Bytes [start, stop) of one object for each pair, all within XMAE_STORE_PATIENCE_S (60 s) and 10 s for each MB.

    Raises what the client raises: put it in `storage_errors`.
    """
    fs, path = filesystem(url)
    if is_local(url):  # opened once; fsspec opens it for each range, which takes as long as reading 100 kB
        with open(path, "rb") as file:
            return [_range_of(file, start, stop) for start, stop in zip(starts, stops, strict=True)]
    limit = _within_bytes(fs, sum(stops) - sum(starts))
    if len(starts) == 1:
        try:
            return [fs.cat_file(path, start=starts[0], end=stops[0], **limit)]
        except client_errors() as error:
            return [_nothing_past_the_end(error)]
    found = fs.cat_ranges([path] * len(starts), list(starts), list(stops), on_error="return", **limit)
    return [_nothing_past_the_end(one) if isinstance(one, Exception) else one for one in found]


def _range_of(file: BinaryIO, start: int, stop: int) -> bytes:
    file.seek(start)
    return file.read(stop - start)


def _nothing_past_the_end(error: Exception) -> bytes:
    """No bytes where a range begins behind the end of the object, as s3fs and files give; raises any other error."""
    if getattr(error, "code", None) == 416:  # gcsfs
        return b""
    raise error


def write_bytes(url: str, data: bytes | bytearray | memoryview) -> None:
    """Writes one object so that readers see all of it or nothing, within XMAE_STORE_PATIENCE_S and 10 s for each MB."""
    fs, path = filesystem(checked_place(url))
    with storage_errors(url):
        if is_local(url):
            _write_local(Path(path), data)
        else:
            fs.pipe_file(path, bytes(data), **_within_bytes(fs, len(data)))


def _write_local(path: Path, data: bytes | bytearray | memoryview) -> None:
    _place(path, data, os.replace)


def _create_local(path: Path, data: bytes) -> None:
    _place(path, data, os.link)  # fails where there is one, and never shows half of the content


def _place(path: Path, data: bytes | bytearray | memoryview, into_place: Callable[[Path, Path], None]) -> None:
    """Writes beside `path`, then puts it there. Object stores have no folders: one that another process removes
    meanwhile, since nothing was left in it, is made again.
    """
    for attempt in range(1, _FOLDER_ATTEMPTS + 1):
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        try:
            _make_folder(path.parent)
            partial.write_bytes(data)
            into_place(partial, path)
            return
        except FileNotFoundError:
            if attempt == _FOLDER_ATTEMPTS:
                raise
        finally:
            partial.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    """Raises FileNotFoundError where it went while it was made, too."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        if folder.is_dir():
            return
        if folder.exists():
            raise  # a file
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder)) from None


def create_exclusively(url: str, data: bytes) -> bool:
    """Writes the object only if there is none, and says whether it did: of several writers one gets True.

    `data` must be the writer's own, such as by an id in it: what is there already and equal to it is taken for a put
    of ours whose answer was lost.
    """
    fs, path = filesystem(checked_place(url))
    with storage_errors(url):
        try:
            if is_local(url):
                _create_local(Path(path), data)
            else:
                fs.pipe_file(path, data, mode="create", **_within_bytes(fs, len(data)))
        except OSError as error:
            if not _is_precondition_failure(error):
                raise
            return read_bytes(url) == data
    return True


def _is_precondition_failure(error: OSError) -> bool:
    said = f"{error} {error.__cause__}"
    signs = ("PreconditionFailed", "pre-conditions", "ConditionalRequestConflict")
    return isinstance(error, FileExistsError) or any(sign in said for sign in signs)


def exists(url: str) -> bool:
    fs, path = filesystem(url)
    with storage_errors(url):
        return bool(fs.exists(path))


def size(url: str) -> int:
    """Bytes of an object. Raises StorageError where there is none."""
    fs, path = filesystem(url)
    with storage_errors(url):
        return int(fs.size(path))


def list_urls(url: str, *, recursive: bool = False) -> list[str]:
    """URLs directly below `url` (or, with `recursive`, of every object below it), sorted; [] where nothing
    is.
    """
    fs, path = filesystem(url)
    scheme = normalise(url).partition("://")[0]
    with storage_errors(url):
        try:
            found = fs.find(path) if recursive else fs.ls(path, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            if not is_local(url):
                probe(url)
            return []
    return sorted(f"{scheme}://{item.rstrip('/')}" for item in found if item.rstrip("/") != path.rstrip("/"))


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """One object of a listing."""

    url: str
    bytes: int
    modified_s: float


def list_details(url: str) -> list[StoredObject]:
    """Every object below `url` with its size and time of change (seconds since 1970), sorted; [] where
    none is.
    """
    fs, path = filesystem(url)
    scheme = normalise(url).partition("://")[0]
    with storage_errors(url):
        found = fs.find(path, detail=True)
    return sorted(
        (
            StoredObject(url=f"{scheme}://{name}", bytes=int(info["size"]), modified_s=_modified_s(info))
            for name, info in found.items()
        ),
        key=lambda one: one.url,
    )


def listed_below(url: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(path, details) of every object below `url` as the store lists it, a page at a time where it is S3: memory does
    not grow with the number of objects. Other stores are listed at once.
    """
    fs, path = filesystem(url)
    with storage_errors(url):
        if "s3" not in fs.protocol:
            yield from fs.find(path, detail=True).items()
            return
        bucket, _, prefix = path.partition("/")
        asked = {"Bucket": bucket, "Prefix": f"{prefix.rstrip('/')}/" if prefix else ""}
        while True:
            page = fs.call_s3("list_objects_v2", **asked)
            for one in page.get("Contents", []):
                yield f"{bucket}/{one['Key']}", {**one, "size": one["Size"]}
            if not page.get("IsTruncated"):
                return
            asked["ContinuationToken"] = page["NextContinuationToken"]


def _modified_s(info: Mapping[str, Any]) -> float:
    when = info.get("LastModified", info.get("mtime", info.get("updated")))
    return when.timestamp() if isinstance(when, datetime) else float(when or 0.0)


def delete(url: str, recursive: bool = False) -> None:
    """Removes an object, or with `recursive` all that lies below `url`; nothing there is no error."""
    fs, path = filesystem(checked_place(url))
    with storage_errors(url), contextlib.suppress(FileNotFoundError):
        if recursive and is_local(url) and os.path.isdir(path) and not os.path.islink(path):
            _remove_tree(Path(path))
        else:
            fs.rm(path, recursive=recursive)


def _remove_tree(folder: Path) -> None:
    """What others remove meanwhile is gone all the same, and what they add stays: as on an object store."""

    def told(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error  # a folder that cannot be read would stay with all that it holds, without a word

    for place, folders, names in os.walk(folder, topdown=False, onerror=told):
        for name in (*names, *(one for one in folders if os.path.islink(os.path.join(place, one)))):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(place, name))
        try:
            os.rmdir(place)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise


def upload_tree(local_dir: str | Path, url: str) -> None:
    """Copies every file below `local_dir` to the same relative key below `url`."""
    root = Path(local_dir)
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        write_bytes(join(url, path.relative_to(root).as_posix()), path.read_bytes())


def download_tree(url: str, local_dir: str | Path) -> None:
    """Copies every object below `url` to the same relative path below `local_dir`."""
    base = normalise(url)
    found = list_urls(base, recursive=True)
    if not found:
        raise StorageError(url, value="nothing below it", expected="objects to download", fix="check the URL")
    for item in found:
        _write_local(path_below(local_dir, item.removeprefix(base).lstrip("/")), read_bytes(item))


def probe(url: str) -> None:
    """Raises StorageError, within about ten seconds, where the store of `url` cannot be used.

    Told apart: an endpoint that does not answer, credentials that are missing or refused, a bucket that
    does not exist or may not be listed. A local path is right when its nearest existing ancestor can be
    entered.
    """
    scheme, _, path = normalise(url).partition("://")
    with storage_errors(url):
        if scheme == "file":
            _probe_local(Path(path))
        elif scheme == "s3":
            _probe_s3(url, path)
        else:
            _probe_gs(url, path)


def _probe_gs(url: str, path: str) -> None:
    try:
        probe_gs(_filesystem("gs", probing=True), path, _PROBE_GS_S)
    except FileNotFoundError as error:
        raise StorageError(
            url, value="no such bucket", expected="an existing bucket", fix="check the bucket's spelling, or create it"
        ) from error


def _probe_s3(url: str, path: str) -> None:
    bucket, _, key = path.partition("/")
    fs = _filesystem("s3", probing=True)
    try:
        fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=key, MaxKeys=1)
    except FileNotFoundError as error:
        if "bucket" in str(error):
            raise
        raise StorageError(
            url,
            value="an endpoint that answers, but not as an S3 store",
            expected="an S3 protocol server",
            fix="check AWS_ENDPOINT_URL (and that no proxy answers in its place)",
        ) from error


def _probe_local(path: Path) -> None:
    while not path.exists():
        path = path.parent
    if not path.is_dir():
        raise NotADirectoryError(str(path))
    if not os.access(path, os.R_OK | os.X_OK):
        raise PermissionError(str(path))


def probe_conditional_put(url: str) -> None:
    """Raises StorageError where the store lets two writers both create one object (commits would be lost)."""
    target = join(normalise(url), f"_probe-{uuid.uuid4().hex}")
    first = create_exclusively(target, b"probe")
    try:
        second = create_exclusively(target, b"probe again")
    finally:
        delete(target)
    if not first or second:
        raise StorageError(
            url,
            value="a store that overwrites on a conditional put (If-None-Match: *)",
            expected="a store that refuses the second of two such puts",
            fix="use a store with conditional writes "
            "(AWS S3, GCS, MinIO, local files): without them two writers can lose each other's commits",
        )


def keeps_old_versions(url: str) -> bool | None:
    """Whether the bucket of `url` keeps what is removed from it as old versions; None where we may not ask."""
    scheme, _, path = normalise(url).partition("://")
    if scheme == "file":
        return False
    fs = _filesystem(scheme, probing=True)
    bucket = path.partition("/")[0]
    try:
        with storage_errors(url):
            if scheme == "s3":
                return fs.call_s3("get_bucket_versioning", Bucket=bucket).get("Status") in ("Enabled", "Suspended")
            found = fs.call("GET", "b/{}", bucket, json_out=True, timeout=_PROBE_GS_S)
    except StorageError:
        return None
    return bool(found.get("versioning", {}).get("enabled") or found.get("softDeletePolicy", {}).get("effectiveTime"))


def delta_options(url: str) -> dict[str, str]:
    """Storage options for delta-rs: the access of our own client, safe commits, and limits on how long a dead store is
    asked. They hold keys: never print them. Raises StorageError where there is no access.
    """
    scheme, _, path = normalise(url).partition("://")
    if scheme == "file":
        return {}
    options = {"connect_timeout": "2s", "timeout": "120s", "max_retries": "3", "retry_timeout": "8s"}
    if scheme == "s3":
        with storage_errors(url):
            options |= _s3_options(path.partition("/")[0])
    if scheme == "gs":
        options |= gs_delta_options()
    return options


def _s3_options(bucket: str) -> dict[str, str]:
    fs = _filesystem("s3", probing=False)
    access = s3_access(fs, bucket, _bucket_regions.setdefault(id(fs), {}))
    options = {
        "aws_conditional_put": "etag",
        "aws_region": access.region,
        "aws_access_key_id": access.access_key_id,
        "aws_secret_access_key": access.secret_access_key,
    }
    if access.session_token:
        options["aws_session_token"] = access.session_token
    if access.endpoint_url:
        options["aws_endpoint_url"] = access.endpoint_url
        options["aws_allow_http"] = str(access.endpoint_url.startswith("http://")).lower()
    return options
