"""TensorFlow Datasets as examples, read from ArrayRecord, without TensorFlow."""

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
    """A split of a data set, prepared on this machine; iterates over its examples, blank ones included.

    Args:
        location: NAME[/CONFIG][:SPLIT], as in `tfds:NAME[/CONFIG][:SPLIT]`.
        role: the split that is read where none is named.
        formats: how a record becomes an example.
    """

    def __init__(self, location: str, role: str, formats: Formats):
        # A version is part of the name: imdb_reviews/plain_text:1.0.0:train.
        found = re.fullmatch(r"((?:huggingface:)?[^:]*(?::\d+\.\d+\.\d+)?)(?::(.*))?", location, re.DOTALL)
        self._name, split = found.groups()
        self._split, self._formats = split or role, formats
        # TFDS greets, counts and reports on standard output, which belongs to what the program was asked for.
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
        """What its examples depend on, beside the formats."""
        parts = self._builder.info.splits[self._split].file_instructions
        folder = epath.Path(self._builder.data_path)
        described = [folder / "features.json", *sorted(folder.glob("*.labels.txt"), key=str)]
        paths = dict.fromkeys([*map(str, described), *(part.filename for part in parts)])
        return [*(text_files.digest(epath.Path(path)) for path in paths), *([part.skip, part.take] for part in parts)]

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, len(self._records), BLOCK):  # in blocks: one by one they take three times as long
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
    """What TFDS gives for a feature as strings, numbers, and lists and dicts of them; labels by their names."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.FeaturesDict):
        return {name: _plain(feature[name], value[name]) for name in feature}
    if isinstance(feature, tfds.features.Sequence):
        inner = feature.feature
        if isinstance(inner, tfds.features.FeaturesDict) and isinstance(value, dict):
            return {name: [_plain(inner[name], each) for each in value[name]] for name in inner}
        return [_plain(inner, each) for each in value]
    if isinstance(feature, tfds.features.ClassLabel):
        return feature.int2str(int(value)) if value >= 0 else str(int(value))  # -1 where a test set hides it
    if isinstance(value, bytes):
        return value.decode()
    plain = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(plain, bool):
        return str(plain)  # as earlier versions wrote them, so that their runs go on
    return None if plain != plain else plain  # NaN is how an array has no value


def import_builders() -> None:
    """Makes the data sets of text, and TinyWorld, known to TFDS.

    TFDS imports its groups one after another, and stops without a word at the first that lacks a dependency
    (nearest_neighbors, without h5py), so that glue or wmt16_translate would be unknown: those of text are named.
    """
    import tensorflow_datasets.question_answering
    import tensorflow_datasets.summarization
    import tensorflow_datasets.text
    import tensorflow_datasets.text_simplification
    import tensorflow_datasets.translate  # noqa: F401

    import lm.tinyworld  # noqa: F401  (it registers itself with TFDS)


def _builder(name: str, role: str, formats: Formats) -> Any:
    """The builder of a data set whose features can be read."""
    import tensorflow_datasets as tfds  # here, as those who read files need not wait for it
    from tensorflow_datasets.core.utils import file_utils

    import_builders()
    field = f"config.data.{role}"
    for folder in file_utils.list_data_dirs():  # TFDS would wait for a pipe
        files.require_regular_below(epath.Path(folder) / re.split("[/:]", name)[0])
    try:
        builder = tfds.builder(name)
    except tfds.core.DatasetNotFoundError:
        names = _similar(name.partition("/")[0], tfds.list_builders(with_community_datasets=False))
        raise UserError(field, f"tfds:{name} is no data set of TFDS", names) from None
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
    except Exception as error:  # `huggingface:` asks the network, and fails as its libraries do
        reason = str(error).partition("\n")[0]
        raise UserError(field, f"tfds:{name} cannot be opened ({reason})", "check the name and the network") from error
    features = builder.info.features
    names = sorted(features) if isinstance(features, tfds.features.FeaturesDict) else [type(features).__name__]
    texts = set(names) & {"text", "source", "target"}
    if not formats and (
        texts not in ({"text"}, {"source", "target"})
        or not all(isinstance(_texts_of(key, features[key]), tfds.features.Text) for key in texts)
    ):
        reason = f"tfds:{name} has the features {', '.join(names)}; read are text, or source and target"
        action = f"take another data set, {proposed(list(features) if len(names) > 1 else names)}"
        raise UserError(field, reason, action)
    return builder


def _texts_of(name: str, feature: Any) -> Any:
    """The feature, or of a sequence of targets the feature of each."""
    import tensorflow_datasets as tfds

    return feature.feature if name == "target" and isinstance(feature, tfds.features.Sequence) else feature


def _prepared(builder: Any, name: str, role: str) -> Any:
    """The builder, with its data on this machine."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import downloader

    if builder.data_path.exists():
        return builder
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    # TFDS makes ten attempts, each after twice the wait: three and a half minutes, where there is no network.
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
        # Each of hundreds of builders fails in its own way, where network, disk, a package or a manual step is missing.
        reason = str(error).partition("\n")[0]
        action = "check network and disk, set TFDS_DATA_DIR to another folder, or bring the data set, prepared as array_record,"
        action += f" to {builder.data_dir}"
        raise UserError(f"config.data.{role}", f"tfds:{name} cannot be prepared ({reason})", action) from error
    return builder


def _configs(name: str) -> Sequence[str]:
    import tensorflow_datasets as tfds

    try:
        return list(tfds.builder_cls(re.split("[/:]", name)[0]).builder_configs)
    except (ValueError, AssertionError):
        return []


def _similar(name: str, choices: Sequence[str]) -> str:
    """As `nearest`, for lists too long to print."""
    return nearest(name, difflib.get_close_matches(name, choices, n=8, cutoff=0))
