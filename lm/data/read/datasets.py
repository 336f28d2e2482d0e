"""TensorFlow Datasets (TFDS) as examples, read from ArrayRecord without TensorFlow."""

import contextlib
import difflib
import io
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from lm import files
from lm.config.formats import Formats, fill_each, proposed
from lm.data.read import text_files
from lm.data.read.examples import BLOCK, Example
from lm.errors import UserError, nearest


class Dataset:
    """A split of a data set, prepared on this machine; iterates over its examples, including blank ones.

    Args:
        location: `NAME[/CONFIG][:SPLIT]`, the part of a source after `tfds:`.
        role: train, validation or test; the split that is read if `location` names none.
        formats: the rules by which a record becomes examples.

    Raises:
        UserError: the data set, its config or its split does not exist, or it cannot be prepared.
    """

    def __init__(self, location: str, role: str, formats: Formats):
        # A version belongs to the name, e.g. imdb_reviews/plain_text:1.0.0:train.
        found = re.fullmatch(r"((?:huggingface:)?[^:]*(?::\d+\.\d+\.\d+)?)(?::(.*))?", location, re.DOTALL)
        self._name, split = found.groups()
        self._split, self._formats = split or role, formats
        # TFDS prints messages to standard output, which is reserved for the output of the program.
        with contextlib.redirect_stdout(io.StringIO()):
            self._builder = builder = _prepared(_builder(self._name, role, formats), self._name, role)
            try:
                self._records = builder.as_data_source(self._split)
            except (ValueError, AssertionError):
                reason = f"tfds:{self._name} has no split {self._split!r}"
                action = f"write tfds:{self._name}:SPLIT, {nearest(self._split, builder.info.splits)}"
                raise UserError(f"config.data.{role}", reason, action) from None
            except NotImplementedError:
                reason = f"tfds:{self._name} is prepared in a format that cannot be read at random: {builder.data_dir}"
                raise UserError(f"config.data.{role}", reason, "move that folder away, or set TFDS_DATA_DIR") from None

    def identity(self) -> list:
        """Returns digests and ranges of the files that the examples are read from; part of the cache key."""
        parts = self._builder.info.splits[self._split].file_instructions
        folder = epath.Path(self._builder.data_path)
        described = [folder / "features.json", *sorted(folder.glob("*.labels.txt"), key=str)]
        paths = dict.fromkeys([*map(str, described), *(part.filename for part in parts)])
        return [*(text_files.digest(epath.Path(path)) for path in paths), *([part.skip, part.take] for part in parts)]

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, len(self._records), BLOCK):  # reading in blocks is three times as fast
            numbers = list(range(start, min(start + BLOCK, len(self._records))))
            for number, record in zip(numbers, self._records.__getitems__(numbers), strict=True):
                yield from self._examples(number, record)

    def _examples(self, number: int, record: Any) -> Iterator[Example]:
        plain = _plain(self._builder.info.features, record)
        try:
            for texts in self._formats.filled(plain):
                targets = texts["text"] if "text" in texts else fill_each("{target}", texts)
                log_prob = texts.get("log_prob")
                yield Example.answered(texts.get("source"), targets, None if log_prob is None else float(log_prob))
        except KeyError as error:
            where, action = f"tfds:{self._name}, example {number}", "name another field in the format"
            raise UserError(where, error.args[0], action) from None


def _plain(feature: Any, value: Any) -> Any:
    """Returns the value of a TFDS feature as strings, numbers, and lists and dicts of them; a label is its name."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.FeaturesDict):
        return {name: _plain(feature[name], value[name]) for name in feature}
    if isinstance(feature, tfds.features.Sequence):
        inner = feature.feature
        if isinstance(inner, tfds.features.FeaturesDict) and isinstance(value, dict):
            return {name: [_plain(inner[name], each) for each in value[name]] for name in inner}
        return [_plain(inner, each) for each in value]
    if isinstance(feature, tfds.features.ClassLabel):
        return feature.int2str(int(value)) if value >= 0 else str(int(value))  # test sets may hide labels as -1
    if isinstance(value, bytes):
        return value.decode()
    plain = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(plain, bool):
        return str(plain)  # as earlier versions wrote it, so that their runs can resume
    return None if plain != plain else plain  # NaN is a missing value in an array


def import_builders() -> None:
    """Registers the text data sets and TinyWorld with TFDS.

    TFDS imports its groups in order and stops silently at the first group with a missing dependency, e.g.
    nearest_neighbors without h5py. Then glue or wmt16_translate would be unknown, so text groups are imported by name.
    """
    import tensorflow_datasets.question_answering
    import tensorflow_datasets.summarization
    import tensorflow_datasets.text
    import tensorflow_datasets.text_simplification
    import tensorflow_datasets.translate  # noqa: F401

    import lm.tinyworld  # noqa: F401  (the import registers it with TFDS)


def _builder(name: str, role: str, formats: Formats) -> Any:
    """Returns the builder of a data set, after a check that its features can be read as texts."""
    import tensorflow_datasets as tfds  # imported late, as it is slow and files do not need it
    from tensorflow_datasets.core.utils import file_utils

    import_builders()
    field = f"config.data.{role}"
    for folder in file_utils.list_data_dirs():  # TFDS would block on a named pipe
        files.require_regular_below(epath.Path(folder) / re.split("[/:]", name)[0])
    try:
        builder = tfds.builder(name)
    except tfds.core.DatasetNotFoundError:
        names = _similar(name.partition("/")[0], tfds.list_builders(with_community_datasets=False))
        raise UserError(field, f"tfds:{name} is not a data set of TFDS", names) from None
    except (ValueError, AssertionError, TypeError) as error:
        configs = _configs(name)
        config = re.sub("(^|/)[^/]*=.*", "", name.partition("/")[2].partition(":")[0])  # without parameters
        if config and configs and config not in configs:
            raise UserError(field, f"tfds:{name} has no config {config!r}", _similar(config, configs)) from None
        reason = str(error).rpartition('}": ')[2].partition("\n")[0]
        raise UserError(
            field, f"tfds:{name} cannot be opened ({reason})", "write tfds:NAME[/CONFIG][:SPLIT]"
        ) from error
    except ImportError as error:
        raise UserError(field, f"tfds:{name} needs a package ({error})", "install it") from None
    except Exception as error:  # `huggingface:` uses the network, and raises the errors of its libraries
        reason = str(error).partition("\n")[0]
        raise UserError(field, f"tfds:{name} cannot be opened ({reason})", "check the name and the network") from error
    features = builder.info.features
    names = sorted(features) if isinstance(features, tfds.features.FeaturesDict) else [type(features).__name__]
    texts = set(names) & {"text", "source", "target"}
    if not formats and (
        texts not in ({"text"}, {"source", "target"})
        or not all(isinstance(_texts_of(key, features[key]), tfds.features.Text) for key in texts)
    ):
        reason = f"tfds:{name} has the features {', '.join(names)} instead of text, or source and target"
        action = f"use another data set, {proposed(list(features) if len(names) > 1 else names)}"
        raise UserError(field, reason, action)
    return builder


def _texts_of(name: str, feature: Any) -> Any:
    """Returns the feature, or for a sequence of targets the feature of one target."""
    import tensorflow_datasets as tfds

    return feature.feature if name == "target" and isinstance(feature, tfds.features.Sequence) else feature


def _prepared(builder: Any, name: str, role: str) -> Any:
    """Returns the builder after its data was downloaded and prepared on this machine, if it was not there."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import downloader

    if builder.data_path.exists():
        return builder
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    # By default TFDS tries ten times and doubles the wait each time: three and a half minutes without a network.
    downloader.MAX_RETRIES = 5
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    logging.info("preparing tfds:%s in %s", name, builder.data_dir)
    try:
        builder.download_and_prepare(
            file_format="array_record", download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    except FileExistsError:
        return tfds.builder(name)  # another process was faster
    except Exception as error:
        # Hundreds of builders fail in their own ways if the network, space, a package or a manual step is missing.
        reason = str(error).partition("\n")[0]
        action = "check network and disk, set TFDS_DATA_DIR to another folder, or copy the data set, prepared as"
        action += f" array_record, to {builder.data_dir}"
        raise UserError(f"config.data.{role}", f"tfds:{name} cannot be prepared ({reason})", action) from error
    return builder


def _configs(name: str) -> Sequence[str]:
    import tensorflow_datasets as tfds

    try:
        return list(tfds.builder_cls(re.split("[/:]", name)[0]).builder_configs)
    except (ValueError, AssertionError):
        return []


def _similar(name: str, choices: Sequence[str]) -> str:
    """Returns the action for an unknown name, as `nearest` does, with similar names instead of all of them."""
    return nearest(name, difflib.get_close_matches(name, choices, n=8, cutoff=0))
