"""Files that are read whole: they must be regular files and no larger than the limit of their kind.

Every reader of a whole file calls `read` or `read_text` here, as a program would wait for a pipe without a message, a
device has no end, and a sparse file of gigabytes is easily made. Data is read as a stream and may have any size, so its
readers call `require_regular` only.
"""

import contextlib
import os
import re
import stat

from etils import epath

from lm.errors import UserError

# Largest size of each kind of file, in bytes. Each limit is far above the size that such a file needs.
MOST = {
    "config file": 2**24,
    "file of flags": 2**24,
    "tokenizer": 2**30,
    "file of prompts": 2**30,
    "JSON file of a run": 2**26,
    "list of labels": 2**26,
    "file of metrics": 2**30,
    "record of an evaluation": 2**30,
    "record of an output file": 2**20,
    "note of the cache": 2**28,
}

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

# Formats that are given as text by mistake: a pattern of the first bytes, the reason and the action of the error.
_BEGINNINGS = (
    (rb"\x1f\x8b", "is gzip-compressed", "decompress it with gunzip"),
    (rb"\x28\xb5\x2f\xfd", "is zstd-compressed", "decompress it with unzstd"),
    (rb"BZh[1-9](1AY&SY|\x17rE8P)", "is bzip2-compressed", "decompress it with bunzip2"),
    (rb"\xfd7zXZ\0", "is xz-compressed", "decompress it with unxz"),
    (rb"PK\x03\x04", "is a zip archive", "unpack it with unzip, and name the file inside"),
    (rb"7z\xbc\xaf\x27\x1c", "is a 7z archive", "unpack it, and name the file inside"),
    (rb"(?s).{257}ustar", "is a tar archive", "unpack it with tar -xf, and name the file inside"),
    (rb"PAR1\x15", "is a Parquet file", "export it as JSON lines"),
    (rb"\xff\xfe\0\0", "is UTF-32", "convert it, e.g. iconv -f UTF-32 -t UTF-8"),
    (rb"\0\0\xfe\xff", "is UTF-32", "convert it, e.g. iconv -f UTF-32 -t UTF-8"),
    (rb"\xff\xfe", "is UTF-16", "convert it, e.g. iconv -f UTF-16 -t UTF-8"),
    (rb"\xfe\xff", "is UTF-16", "convert it, e.g. iconv -f UTF-16 -t UTF-8"),
)


def require_regular(path: epath.PathLike, action: str = "give a regular file") -> None:
    """Raises `UserError` for a directory, pipe, socket or device.

    Links are followed. Paths in a bucket (`gs://`) are not checked, as buckets hold only regular files.

    Raises:
        UserError: the path is not a regular file; `action` is the action of the error.
        OSError: the path does not exist, or permission is denied.
    """
    if "://" in str(path):
        return
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "a special file")
        raise UserError(str(path), f"is {kind}, not a regular file", action)


def require_regular_below(directory: epath.PathLike) -> None:
    """Raises `UserError` if anything below a directory is neither a regular file nor a directory."""
    if "://" in str(directory):
        return
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a temporary file may vanish; readers of others report it
                require_regular(os.path.join(folder, name))


def read(path: epath.PathLike, kind: str) -> bytes:
    """Returns the bytes of a file; `kind` is a key of `MOST`.

    Raises:
        UserError: the path is not a regular file, or the file is larger than the limit of its kind.
        OSError: the file does not exist, or permission is denied.
    """
    require_regular(path)
    path, most = epath.Path(path), MOST[kind]
    # etils looks up the owner of a local file, who may have no name in a container.
    size = path.stat().length if "://" in str(path) else os.stat(path).st_size
    if size <= most:
        with path.open("rb") as file:
            content = file.read(most + 1)  # it may have grown, and files of /proc have the size 0
        size = max(size, len(content))
    if size > most:
        reason = f"has {size:,} bytes, more than the {most:,} that a {kind} may have"
        raise UserError(str(path), reason, "check that it is the right file")
    return content


def read_text(path: epath.PathLike, kind: str) -> str:
    """Returns the text of a file; `kind` is a key of `MOST`.

    Raises:
        UserError: as `read` and `decoded` do.
        OSError: as `read` does.
    """
    return decoded(read(path, kind), str(path))


def decoded(content: bytes, where: str) -> str:
    """Returns UTF-8 bytes as text, without a byte order mark.

    Raises:
        UserError: the bytes are not UTF-8; the error names their format if it is known, else the line.
    """
    known = disguise(content)
    try:
        if not known:
            return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{where}:{line}", f"is not UTF-8 (byte {error.start})", "convert it to UTF-8") from None
    reason, action = known
    raise UserError(where, reason, action)


def encodable(text: str) -> bool:
    """Returns whether a text can be encoded as UTF-8, i.e. has no half of a surrogate pair."""
    return not re.search("[\ud800-\udfff]", text)


def disguise(beginning: bytes) -> tuple[str, str] | None:
    """Returns the reason and the action of an error if bytes begin like a known format that is not UTF-8, else None."""
    for magic, reason, action in _BEGINNINGS:
        if re.match(magic, beginning):
            return reason, action
    for first, name in ((0, "UTF-16LE"), (1, "UTF-16BE")):  # without a byte order mark: every other byte is NUL
        text, nul = beginning[first:64:2], beginning[1 - first : 64 : 2]
        if len(nul) > 1 and not any(nul) and all(text):
            return f"is {name}", f"convert it, e.g. iconv -f {name} -t UTF-8"
    return None
