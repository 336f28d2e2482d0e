"""Files that are there whole or not at all."""

import os

from etils import epath

from lm.errors import UserError


def write_whole(path: epath.Path, content: str | bytes) -> None:
    """Writes a file so that it is there whole, or as it was; text as UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}"
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        error.filename = str(path)  # a write that fails names no file
        raise


def require_inside(workdir: epath.Path, path: epath.Path) -> None:
    """Raises `UserError` where a part of a run is a link out of its directory, through which it would be written.

    The directory may be reached by a link itself.
    """
    if "://" in str(workdir):
        return
    inner = os.path.relpath(path, workdir).split(os.sep)
    for depth in range(1, len(inner) + 1):
        part = os.path.join(workdir, *inner[:depth])
        real = os.path.realpath(part)
        if os.path.islink(part) and not real.startswith(os.path.realpath(workdir) + os.sep):
            reason = f"is a link out of the run's directory, to {real}, and would be written through"
            raise UserError(
                part, reason, "move the whole directory there and link that, or replace the link by what it names"
            )


def require_there(workdir: epath.Path) -> None:
    """Raises `UserError` where the directory was taken away meanwhile: what is written there now would be no run."""
    if not (workdir / "config.json").exists():
        reason = "its config.json is gone: the directory was removed or moved while training went on"
        raise UserError(str(workdir), reason, "put it back and start again, from its last checkpoint")
