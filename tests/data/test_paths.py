"""The paths of sources: links, escapes, and files under another format's name."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile

import pytest
import zstandard

from lm.data.read import paths
from lm.data.read.examples import Example
from lm.data.read.sources import load_splits
from lm.errors import UserError


def read(spec: str) -> list[Example]:
    return list(load_splits(spec, spec, "", ("train",))["train"].examples)


def error_of(spec: str) -> str:
    with pytest.raises(UserError) as caught:
        load_splits(spec, spec, "")
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- links ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    """`in/` with two texts, and a text outside of it."""
    for name in ("in/a.txt", "in/deep/b.txt", "out/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


LOOPS = {
    "its own folder": {"in/self": "."},
    "two to its own folder": {"in/self": ".", "in/again": "."},
    "the folder above": {"in/deep/up": ".."},
    "a folder above all that is read": {"in/up": "..", "in/deep/up": "../../.."},
    "one another": {"in/x": "y", "in/y": "x"},
    "itself": {"in/x": "x"},
    "a folder beside it": {"in/beside": "deep", "in/deep/back": ".."},
}


@pytest.mark.parametrize("scheme", ["text", "tsv", "jsonl"])
@pytest.mark.parametrize("links", LOOPS)
def test_links_lead_into_no_loop_and_each_file_is_read_once(links, scheme, tree):
    for link, target in LOOPS[links].items():
        (tree / link).symlink_to(target)
    found = paths.named(f"{tree}/in/**/*.txt", "train", scheme)
    assert [str(path.relative_to(tree)) for path in found] == ["in/a.txt", "in/deep/b.txt"]


def test_without_links_a_pattern_finds_what_glob_finds(tree, monkeypatch):
    import glob

    (tree / "in/.hidden").mkdir()
    (tree / "in/.hidden/d.txt").write_text("d")
    (tree / "in/.e.txt").write_text("e")
    monkeypatch.chdir(tree)
    patterns = [
        "**/*.txt",
        "in/**/*.txt",
        "in/**",
        "**",
        "*/**/b.txt",
        "in/**/deep/**/*",
        "**/.hidden/*",
        "i?/**/[ab].txt",
    ]
    for pattern in [*patterns, *(f"{tree}/{pattern}" for pattern in patterns)]:
        expected = sorted(os.path.normpath(name) for name in glob.glob(pattern, recursive=True) if os.path.isfile(name))
        assert [str(path) for path in paths.matches(pattern, "train", "text")] == expected


def test_links_to_files_and_folders_elsewhere_are_read(tree):
    (tree / "in/file.txt").symlink_to("../out/c.txt")
    assert [example.target for example in read(f"text:{tree}/in/**/*.txt")] == [
        "in/a.txt",
        "in/deep/b.txt",
        "out/c.txt",
    ]
    (tree / "in/file.txt").unlink()
    (tree / "in/folder").symlink_to("../out")
    assert [example.target for example in read(f"text:{tree}/in/**/*.txt")] == [
        "in/a.txt",
        "in/deep/b.txt",
        "out/c.txt",
    ]


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_file_of_two_names_is_read_once_and_said(link, tree):
    link(tree / "in/a.txt", tree / "in/0.txt")
    link(tree / "in/a.txt", tree / "in/z.txt")
    spec = f"text:{tree}/in/*.txt"
    split = load_splits(spec, spec, "")["train"]
    assert [example.target for example in split.examples] == ["in/a.txt"]
    assert split.note == f"2 more names or links of the same files are left out of {spec}"


def test_parallel_files_may_be_paired_with_one_file_many_times_but_a_pair_is_read_once(tmp_path):
    for name in ("1.en", "2.en", "1.de"):
        (tmp_path / name).write_text(f"{name}\n")
    (tmp_path / "2.de").symlink_to("1.de")
    spec = f"parallel:{tmp_path}/*.en,{tmp_path}/*.de"
    assert read(spec) == [Example("1.en", "1.de"), Example("2.en", "1.de")]
    (tmp_path / "3.en").symlink_to("1.en")
    (tmp_path / "3.de").symlink_to("1.de")
    assert read(spec) == [Example("1.en", "1.de"), Example("2.en", "1.de")]


# ---- escapes ----------------------------------------------------------------------------------------------------

ODD = ["a,b", "a | b", "a | {b}", "a + tsv:b", "2*a", "a[1]", "a*", "a?b", "a\\,b", "a\\", "a:b", "{a}", "a]b[", "\\|"]


def escaped(name: str) -> str:
    return "".join("\\" * (letter in "\\,|+*?[]") + letter for letter in name)


@pytest.mark.parametrize("name", ODD)
def test_any_name_can_be_written_with_escapes(name, tmp_path):
    (tmp_path / f"{name}.tsv").write_text("source\tziel\n")
    (tmp_path / f"{name}.jsonl").write_text('{"source": "source", "target": "ziel"}\n')
    (tmp_path / f"{name}.txt").write_text("text")
    (tmp_path / f"{name}.en").write_text("source\n")
    (tmp_path / f"{name}.de").write_text("ziel\n")
    (tmp_path / "axb[2].tsv").write_text("another\tfile\n")  # which a pattern could find
    place, pair = f"{tmp_path}/{escaped(name)}", [Example("source", "ziel")]
    assert read(f"tsv:{place}.tsv") == read(f"jsonl:{place}.jsonl") == pair
    assert read(f"parallel:{place}.en,{place}.de") == pair
    assert read(f"text:{place}.txt") == [Example(None, "text")]
    assert read(f"tsv:{place}.tsv | {{target}} | {{source}}") == [Example("ziel", "source")]
    assert read(f"1*tsv:{place}.tsv + 1*parallel:{place}.en,{place}.de") == pair * 2
    folder = tmp_path / f"{name} folder"
    folder.mkdir()
    (folder / "1.tsv").write_text("source\tziel\n")
    assert read(f"tsv:{tmp_path}/{escaped(name)} folder/*.tsv") == pair


def test_a_path_that_is_there_as_it_is_written_needs_no_escape(tmp_path):
    for name in ("a[1].tsv", "a\\[1].tsv", "b?.tsv", "c,d.tsv"):
        (tmp_path / name).write_text(f"{name}\tx\n")
        assert read(f"tsv:{tmp_path}/{name}") == [Example(name, "x")]


@pytest.mark.parametrize(
    "spec",
    [
        "tsv:{}/a | b.tsv",
        "tsv:{}/a | {{b}}.tsv",
        "tsv:{}/a | b | c | d.tsv",
        "parallel:{}/a,b.en,{}/a,b.de",
        "parallel:{}/a,b.en",
        "tsv:{}/none[1].tsv",
        "text:{}/none[1]/*.txt",
        "tsv:{}/none?.tsv",
        "tsv:{}/a + tsv:b.tsv",
        "jsonl:{}/no\\ne.jsonl",
    ],
)
def test_where_a_path_is_not_found_the_escape_is_named(spec, tmp_path):
    for name in ("a | b.tsv", "a | {b}.tsv", "a | b | c | d.tsv", "a,b.en", "a,b.de"):
        (tmp_path / name).write_text("a\tb\n")
    message = error_of(spec.format(tmp_path, tmp_path))
    assert "\\|" in message or "\\," in message or paths.ESCAPING in message


# ---- other formats ----------------------------------------------------------------------------------------------


def archive(make) -> bytes:
    made = io.BytesIO()
    make(made)
    return made.getvalue()


def _zip(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.tsv", "a\tb\n")


def _tar(file):
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.tsv"))


PLAIN = "one two\teins zwei\n" * 50
DISGUISED = {
    "gzip": (gzip.compress(PLAIN.encode()), "is gzip-compressed; rename it to end in .gz"),
    "zstd": (zstandard.compress(PLAIN.encode()), "is zstd-compressed; rename it to end in .zst"),
    "bzip2": (bz2.compress(PLAIN.encode()), "is bzip2-compressed; decompress it with bunzip2"),
    "xz": (lzma.compress(PLAIN.encode()), "is xz-compressed; decompress it with unxz"),
    "zip": (archive(_zip), "is a zip archive; unpack it"),
    "tar": (archive(_tar), "is a tar archive; unpack it"),
    "UTF-16": (PLAIN.encode("utf-16"), "is UTF-16; convert it"),
    "UTF-16 without its mark": (PLAIN.encode("utf-16-le"), "is UTF-16LE; convert it"),
    "big-endian UTF-16 without its mark": (PLAIN.encode("utf-16-be"), "is UTF-16BE; convert it"),
    "UTF-32": (PLAIN.encode("utf-32"), "is UTF-32; convert it"),
}


@pytest.mark.parametrize("scheme", ["text", "tsv", "jsonl", "parallel"])
@pytest.mark.parametrize("name", DISGUISED)
def test_what_is_compressed_or_of_another_encoding_is_named(name, scheme, tmp_path):
    content, message = DISGUISED[name]
    (tmp_path / "a").write_bytes(content)
    assert message in error_of(f"{scheme}:{tmp_path}/a" + f",{tmp_path}/a" * (scheme == "parallel"))
    (tmp_path / "a.gz").write_bytes(gzip.compress(content))
    assert f"{tmp_path}/a.gz: holds data that {message.split(';')[0]}" in error_of(f"tsv:{tmp_path}/a.gz")


def test_what_only_begins_like_another_format_is_read(tmp_path):
    for text in ("BZh5 is a name", "PAR1 is one too", "PK", "7z"):
        (tmp_path / "a.txt").write_text(text)
        assert [example.target for example in read(f"text:{tmp_path}/a.txt")] == [text]
