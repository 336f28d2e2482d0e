"""What is no file, or larger than its kind can be: refused by every reader before it is waited for or read."""

import json
import os
import signal
import socket
import tracemalloc

import pytest
import tensorflow_datasets as tfds
from etils import epath

from lm import files
from lm.config import from_file
from lm.data.read import store
from lm.data.read.sources import load_splits
from lm.data.text.tokenizers.saved import load_tokenizer, read_model
from lm.errors import UserError
from lm.evaluation import record
from lm.runs import arrays, vectors
from lm.terminal import command_line, prompts

KINDS = {
    "pipe": (os.mkfifo, "is a pipe"),
    "socket": (lambda path: socket.socket(socket.AF_UNIX).bind(os.path.relpath(path)), "is a socket"),
    "device": (lambda path: os.symlink("/dev/zero", path), "is a device"),
    "directory": (os.mkdir, "is a directory"),
}


def read_tokenizer(path):
    path.rename(path.with_name("tokenizer.json"))
    load_tokenizer(path.parent)


def read_model_file(path):
    read_model("bpe", epath.Path(path), {})


def read_shard(path):
    store._digest(path)


def read_array(path):
    arrays.opened(epath.Path(path.parent))


def read_dataset(path):
    folder = path.parent / "tinyworld" / "stories"
    folder.mkdir(parents=True)
    path.rename(folder / "features.json")
    load_splits("tfds:tinyworld/stories", "", "")


def read_record(path):
    (path.parent / "evaluations").mkdir()
    path.rename(path.parent / "evaluations" / "test-1.json")
    record.latest(epath.Path(path.parent), "test")


# Every place where a program opens a file that a user may name or a stranger may have made.
READERS = {
    "config": lambda path: from_file(str(path)),
    "flags": lambda path: command_line.check_flag_files(["--x=1", "--flagfile", str(path)]),
    "prompts": lambda path: prompts.read([], str(path)),
    "tokenizer": read_tokenizer,
    "SentencePiece model": read_model_file,
    "word vectors": lambda path: vectors.read(epath.Path(path), 3, {"a"}),
    "shard of the cache": read_shard,
    "array": read_array,
    "record of an evaluation": read_record,
    "data set of TFDS": read_dataset,
    "text": lambda path: load_splits(f"text:{path}", "", ""),
    "tsv": lambda path: load_splits(f"tsv:{path}", "", ""),
    "jsonl": lambda path: load_splits(f"jsonl:{path}", "", ""),
    "parallel": lambda path: load_splits(f"parallel:{path},{path}", "", ""),
}
HAVE_FOLDERS = ("array", "data set of TFDS")
OF_ANY_SIZE = ("shard of the cache", *HAVE_FOLDERS)  # these are read as a stream, and checked by their hashes


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder for files and the cache; what waits for a pipe fails after some seconds."""
    monkeypatch.setenv("LM_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits"))
    signal.alarm(20)
    yield tmp_path
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_regular_file_is_refused_before_it_is_opened(reader, kind, place):
    if reader in HAVE_FOLDERS and kind == "directory":
        return
    make, what = KINDS[kind]
    make(place / "bad")
    with pytest.raises(UserError) as caught:
        READERS[reader](place / "bad")
    assert what in str(caught.value) and str(place) in str(caught.value)


@pytest.mark.parametrize("reader", [name for name in READERS if name not in OF_ANY_SIZE])
def test_a_file_larger_than_its_kind_can_be_is_refused_and_not_read(reader, place):
    with (place / "bad").open("wb") as file:
        file.truncate(max(files.MOST.values()) * 4)
    tracemalloc.start()
    with pytest.raises(UserError, match=str(place)):
        READERS[reader](place / "bad")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**25


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "directory"])
def test_a_note_of_the_cache_that_is_no_regular_file_is_made_again(kind, place):
    KINDS[kind][0](place / "key.json")
    assert store.remembered("key", lambda: 1) == 1
    assert store.remembered("key", lambda: 2) == 1


def test_a_checkpoint_with_a_pipe_below_its_folders_is_refused(place):
    (place / "params" / "ocdbt").mkdir(parents=True)
    (place / "params" / "_METADATA").write_text(json.dumps({"use_ocdbt": True}))
    os.mkfifo(place / "params" / "ocdbt" / "manifest")
    with pytest.raises(UserError, match="is a pipe"):
        arrays.opened(epath.Path(place / "params"))


def test_files_of_flags_may_name_others_and_each_is_checked(place):
    (place / "a.flags").write_text("# flags\n--flagfile=b.flags\n")
    (place / "b.flags").write_text("-flagfile a.flags\n--flagfile=c.flags\n")  # in a circle, which absl says
    command_line.check_flag_files(["--flagfile=a.flags"])  # c.flags is not there, which absl says too
    os.mkfifo("c.flags")
    with pytest.raises(UserError, match=r"c\.flags: is a pipe"):
        command_line.check_flag_files(["--flagfile=a.flags"])


def test_a_link_counts_as_the_file_that_it_leads_to(place):
    (place / "real").write_text("a\n")
    (place / "link").symlink_to("real")
    assert files.read(place / "link", "file of prompts") == b"a\n"
    (place / "link2").symlink_to("nothing")
    with pytest.raises(FileNotFoundError):
        files.read(place / "link2", "file of prompts")
