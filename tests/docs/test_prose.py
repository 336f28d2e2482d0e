"""The words of pages, docstrings, comments and messages: width, spelling, and phrases that readers stumble over."""

import ast
import io
import pathlib
import re
import tokenize

import pytest
from support.pages import FENCE, PAGES, name_of
from support.programs import ROOT

WRITTEN = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]
CODE = sorted(
    file
    for folder in ("lm", "configs", "benchmarks")
    for file in (ROOT / folder).rglob("*.py")
    if "_build" not in file.parts
)

STEMS = """author capital categor character custom discret emphas equal final formal general initial linear local material
maxim memor minim neutral normal optim organ parallel penal prioriti quant random real recogn regular serial special
stabil standard summar symbol synchron token util vector visual""".split()
BRITISH = re.compile(
    rf"\b\w*({'|'.join(STEMS)})is(e|es|ed|er|ers|ing|ation|ations|able)\b"
    r"|\b\w*(behavi|col|neighb|fav|flav|hon|lab|rum|vap)our\w*"
    r"|\b\w*(model|label|travel|cancel|signal|total|level|marshal|channel|fuel)l(ed|ing|er|ers)\b"
    r"|\b(centre[sd]?|metres?|litres?|fibres?|licences?|defence|offence|artefacts?|grey|programmes?|whilst|amongst)\b"
    r"|\b(learnt|spelt|judgement|fulfil|ageing|sceptic\w*|analyse[dr]?|analysing|practise[ds]?|catalogues?)\b",
    re.I,
)
UNCLEAR = re.compile(
    r"\b(mend(s|ed)?|vouch(es|ed)?|anew|in mid-training|theirs over ours|the peers|stands? for|likewise"
    r"|is said of|what is said|is said\b|twice there|unknown or twice|where there (are|is) none|of which none|none of which"
    r"|is (of|to) no use|what (a|the) run is worth|is, is part of|what no axis|goes on from|begin(s)? anew"
    r"|(nats|bits|tokens|examples|steps|words) an? (second|example|character|token|word|byte|step|text)"
    r"|rows of (a|the) batch|an update\b|many hosts|one kernel|that of the (texts?|run)|those of (the )?likelihoods?)\b",
    re.I,
)


def plain(text: str) -> str:
    """Returns Markdown without blocks, code, links' addresses and names with dots, slashes or underscores."""
    text = re.sub(r"`+[^`]*`+", " ` ", FENCE.sub("", text))
    text = re.sub(r"\]\([^)]*\)", "]", re.sub(r"https?://\S+", "", text))
    return re.sub(r"[\w*]*[/._=-]{1,2}\w[\w/._=-]*", lambda match: match[0] if match[0].count("-") else " ", text)


def docstrings(source: str) -> list[str]:
    """Returns the docstrings of a file."""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(node) for node in ast.walk(ast.parse(source)) if isinstance(node, owners)]
    return [text for text in found if text]


def words_in(source: str) -> list[tuple[int, str]]:
    """Returns (line, text) of the comments and strings of a file, docstrings included, whose text has a space."""
    found = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)):
            text = re.sub(r"\{[^{}\n]*\}", " ", token.string)  # a field of an f-string is code
            lines = plain(text).split("\n") if " " in token.string else []
            found += [(token.start[0] + number, line) for number, line in enumerate(lines)]
    return found


def paragraphs(text: str) -> list[tuple[int, str]]:
    """Returns (line, text) of the lines of a page outside blocks."""
    blank = FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
    return [(number, plain(line)) for number, line in enumerate(blank.split("\n"), 1)]


def offenders(pattern: re.Pattern, lines: list[tuple[int, str]]) -> list[str]:
    return [f"{number}: {match[0]}" for number, line in lines for match in pattern.finditer(line)]


def too_wide(text: str) -> list[int]:
    """Returns the lines of a page above 120 characters, apart from tables, blocks and addresses."""
    blank = FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
    lines = enumerate(blank.split("\n"), 1)
    return [n for n, line in lines if len(line) > 120 and not line.startswith("|") and "http" not in line]


def whats(texts: list[str]) -> tuple[int, int]:
    """Returns how often the word "what" comes in texts, and their number of words."""
    words = [word.lower() for text in texts for word in re.findall(r"[A-Za-z']+", text)]
    return words.count("what"), len(words)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) < 9_000


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_a_page_reads_well(page):
    text = page.read_text(encoding="utf-8")
    assert too_wide(text) == []
    assert offenders(BRITISH, paragraphs(text)) == []
    assert offenders(UNCLEAR, paragraphs(text)) == []
    count, total = whats([plain(text)])
    assert count <= max(1, total / 500)


def folder_of(file: pathlib.Path) -> str:
    return "/".join(file.relative_to(ROOT).parts[:-1][:2])


@pytest.mark.parametrize("folder", sorted({folder_of(file) for file in CODE}))
def test_the_words_of_code_read_well(folder):
    sources = {name_of(file): file.read_text(encoding="utf-8") for file in CODE if folder_of(file) == folder}
    for pattern in (BRITISH, UNCLEAR):
        found = {name: offenders(pattern, words_in(source)) for name, source in sources.items()}
        assert {name: lines for name, lines in found.items() if lines} == {}
    count, total = whats([text for source in sources.values() for text in docstrings(source)])
    assert count <= max(1, total / 500)


def test_faults_of_prose_are_found():
    assert too_wide("a" * 121 + "\n" + "| " + "a" * 121 + "\n```\n" + "a" * 121 + "\n```\n" + "b" * 121) == [1, 6]
    british = (
        "we normalised behaviours; labelled.tsv, `colour`, lm/data/labelling.py, exercise, precise, otherwise, promise"
    )
    assert offenders(BRITISH, [(7, plain(british))]) == ["7: normalised", "7: behaviours"]
    assert offenders(BRITISH, words_in('x = "unlabelled"\nraise E("a labelled text")  # the centre\n')) == [
        "2: labelled",
        "2: centre",
    ]
    assert offenders(BRITISH, words_in('f"a {colour} toy"')) == []
    assert offenders(UNCLEAR, paragraphs("Mend it.\n\n```\nmend it\n```\n\n2 nats an example and an update")) == [
        "1: Mend",
        "7: nats an example",
        "7: an update",
    ]
    assert whats(docstrings('"""What is what."""\n\ndef f():\n    "It runs."\n')) == (2, 5)
