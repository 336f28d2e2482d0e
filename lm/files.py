"""Files that are read whole: regular ones that are no larger than their kind can be.

A pipe would be waited for in silence, a device has no end, and a sparse file of gigabytes costs nothing to make, so each
reader of a whole file comes here. Data is read as a stream and may have any size; it needs `require_regular` alone.
"""

import contextlib
import os
import re
import stat

from etils import epath

from lm.errors import UserError

# The only home of these limits: bytes that a file of each kind may have. Each is far above what one of them needs.
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

# How files begin that are taken for text by mistake (a pattern), the name of the format, and how to make text of it.
_BEGINNINGS = (
    (rb"\x1f\x8b", "is gzip-compressed", "decompress it with gunzip"),
    (rb"\x28\xb5\x2f\xfd", "is zstd-compressed", "decompress it with unzstd"),
    (rb"BZh[1-9](1AY&SY|\x17rE8P)", "is bzip2-compressed", "decompress it with bunzip2"),
    (rb"\xfd7zXZ\0", "is xz-compressed", "decompress it with unxz"),
    (rb"PK\x03\x04", "is a zip archive", "unpack it with unzip, and name the file that was in it"),
    (rb"7z\xbc\xaf\x27\x1c", "is a 7z archive", "unpack it, and name the file that was in it"),
    (rb"(?s).{257}ustar", "is a tar archive", "unpack it with tar -xf, and name the file that was in it"),
    (rb"PAR1\x15", "is a Parquet file", "export it as JSON lines"),
    (rb"\xff\xfe\0\0", "is UTF-32", "convert it, e.g. iconv -f UTF-32 -t UTF-8"),
    (rb"\0\0\xfe\xff", "is UTF-32", "convert it, e.g. iconv -f UTF-32 -t UTF-8"),
    (rb"\xff\xfe", "is UTF-16", "convert it, e.g. iconv -f UTF-16 -t UTF-8"),
    (rb"\xfe\xff", "is UTF-16", "convert it, e.g. iconv -f UTF-16 -t UTF-8"),
)


def require_regular(path: epath.PathLike, action: str = "give a regular file") -> None:
    """Raises `UserError` for a directory, pipe, socket or device; a link counts as the file that it leads to.

    Raises `OSError` where there is nothing, or where it may not be looked at. Buckets hold regular files alone.
    """
    if "://" in str(path):
        return
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "of a special kind")
        raise UserError(str(path), f"is {kind}, not a regular file", action)


def require_regular_below(directory: epath.PathLike) -> None:
    """Raises `UserError` where something below a directory is neither a regular file nor a directory."""
    if "://" in str(directory):
        return
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # whoever reads it says so; it may have been temporary
                require_regular(os.path.join(folder, name))


def read(path: epath.PathLike, kind: str) -> bytes:
    """Returns the bytes of a file of a kind in `MOST`.

    Raises:
        UserError: it is not a regular file, or is larger than its kind can be; then nothing was read.
        OSError: it is not there, or may not be read.
    """
    require_regular(path)
    path, most = epath.Path(path), MOST[kind]
    # Of a file on a disk etils looks up the owner, who in a container may have no name.
    size = path.stat().length if "://" in str(path) else os.stat(path).st_size
    if size <= most:
        with path.open("rb") as file:
            content = file.read(most + 1)  # it may have grown, and those of /proc say that they have no bytes
        size = max(size, len(content))
    if size > most:
        reason = f"has {size:,} bytes, and a {kind} may have {most:,}"
        raise UserError(str(path), reason, "check that it is the right file")
    return content


def read_text(path: epath.PathLike, kind: str) -> str:
    """Returns the text of a file of a kind in `MOST`, strictly UTF-8; raises as `read` does."""
    return decoded(read(path, kind), str(path))


def decoded(content: bytes, where: str) -> str:
    """Returns UTF-8 bytes as text, without a byte order mark; raises `UserError` that names another format, or the line."""
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
    """Returns whether a text can be written as UTF-8: whether it holds no half of a surrogate pair."""
    return not re.search("[\ud800-\udfff]", text)


def disguise(beginning: bytes) -> tuple[str, str] | None:
    """Returns the format that is no text and that bytes begin as, and what to do about it; None for any other."""
    for magic, reason, action in _BEGINNINGS:
        if re.match(magic, beginning):
            return reason, action
    for first, name in ((0, "UTF-16LE"), (1, "UTF-16BE")):  # without a byte order mark: every other byte is NUL
        text, nul = beginning[first:64:2], beginning[1 - first : 64 : 2]
        if len(nul) > 1 and not any(nul) and all(text):
            return f"is {name}", f"convert it, e.g. iconv -f {name} -t UTF-8"
    return None
