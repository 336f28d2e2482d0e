"""The check that moved inputs of a run, such as word vectors, still have the bytes that the run began with."""

from etils import epath

from lm.config import Config, get
from lm.data import encoding
from lm.data.read import text_files
from lm.data.read.sources import Split
from lm.data.text.tokenizers.tokenizer import Tokenizer
from lm.errors import UserError
from lm.runs import arrays, manifest, transfer
from lm.runs.workdir import BEGINNINGS, read_config


def fingerprints(config: Config, origin: transfer.Origin | None) -> dict[str, str]:
    """Returns the fingerprints of the initial parameters and word vectors of a run, by the field that names them."""
    found = {}
    if origin:
        found["training.init_from"] = arrays.fingerprint(origin.params)
    if config.training.word_vectors:
        path = epath.Path(config.training.word_vectors).expanduser()
        found["training.word_vectors"] = text_files.digest(path)[:16]
    return found


def check(workdir: epath.Path, config: Config, train: Split, tokenizer: Tokenizer) -> None:
    """Raises `UserError` if a field names another path than before and its content is not known to be the same."""
    if not (workdir / "config.json").exists():
        return
    old = read_config(workdir)
    for path in BEGINNINGS:
        before, now = get(old, path), get(config, path)
        if before == now:
            continue
        if path == "data.tokenizer.kind":
            found, known = encoding.make_tokenizer(config.data, train).fingerprint, tokenizer.fingerprint
        else:
            starts = manifest.starts_of(workdir)
            known = next((start["began_with"].get(path) for start in starts[::-1] if "began_with" in start), None)
            found = fingerprints(config, transfer.origin(config))[path]
        if found != known:
            reason = f"is {now!r}, and its content is not known to be that of {before!r}, with which the run began"
            raise UserError(
                f"config.{path}", reason, "keep the old value, which is not read again, or choose another --workdir"
            )
