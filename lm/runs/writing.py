"""Writing files atomically, and checks before writing into a run's directory."""

import os

from etils import epath

from lm.errors import UserError


def write_whole(path: epath.Path, content: str | bytes) -> None:
    """Writes a file atomically: after a failure the file has its old content. Text is written as UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}"
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        error.filename = str(path)  # a failed write does not name its file
        raise


def require_inside(workdir: epath.Path, path: epath.Path) -> None:
    """Raises `UserError` if a part of a run is a link out of the run's directory, as a write would follow it.

    The run's directory itself may be a link.
    """
    if "://" in str(workdir):
        return
    inner = os.path.relpath(path, workdir).split(os.sep)
    for depth in range(1, len(inner) + 1):
        part = os.path.join(workdir, *inner[:depth])
        real = os.path.realpath(part)
        if os.path.islink(part) and not real.startswith(os.path.realpath(workdir) + os.sep):
            reason = f"is a link out of the run's directory, to {real}, which training would write to"
            raise UserError(
                part, reason, "move the whole directory and link it, or replace the link by a copy of its target"
            )


def require_there(workdir: epath.Path) -> None:
    """Raises `UserError` if the run's directory was removed during training, so that no incomplete run is written."""
    if not (workdir / "config.json").exists():
        reason = "has lost its config.json: the directory was removed or moved during training"
        raise UserError(str(workdir), reason, "put it back and start again; training resumes from the last checkpoint")
