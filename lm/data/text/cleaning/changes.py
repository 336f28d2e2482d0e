"""Cleaning steps that change text."""

import functools
import re
import sys
import unicodedata
from html import entities, unescape

import ftfy


def nfc(text: str) -> str:
    """Returns the Unicode normal form NFC of a text."""
    return unicodedata.normalize("NFC", text)


def nfkc(text: str) -> str:
    """Returns the Unicode normal form NFKC of a text."""
    return unicodedata.normalize("NFKC", text)


_ENCODING_ALONE = ftfy.TextFixerConfig(
    unescape_html=False,
    remove_terminal_escapes=False,
    fix_latin_ligatures=False,
    fix_character_width=False,
    uncurl_quotes=False,
    fix_line_breaks=False,
    fix_surrogates=False,
    remove_control_chars=False,
    normalization=None,
    explain=False,
)


def mojibake(text: str) -> str:
    """Returns a text with wrongly decoded characters corrected by ftfy."""
    return text if text.isascii() else ftfy.fix_text(text, _ENCODING_ALONE)


def control(text: str) -> str:
    """Returns a text without control and format characters."""
    # White space such as a form feed, or the \r of an old system, separates words.
    return _controls().sub(lambda found: " " if found[0].isspace() else "", text.replace("\r\n", "\n"))


_TAGS = (
    "a abbr acronym address applet area article aside audio b base basefont bdi bdo big blink blockquote body br "
    "button canvas caption center cite code col colgroup data datalist dd del details dfn dialog dir div dl dt em "
    "embed fieldset figcaption figure font footer form frame frameset h1 h2 h3 h4 h5 h6 head header hgroup hr html "
    "i iframe img input ins kbd label legend li link main map mark marquee menu meta meter nav nobr noframes "
    "noscript object ol optgroup option output p param picture pre progress q rp rt ruby s samp script section "
    "select slot small source span strike strong style sub summary sup svg table tbody td template textarea tfoot "
    "th thead time title tr track tt u ul var video wbr"
).split()


_INLINE = frozenset("a abbr acronym b bdi bdo big cite code dfn em font i ins kbd mark nobr q s samp small span strike "
                    "strong sub sup tt u var wbr".split())  # fmt: skip


# Only names of HTML match, so that `x<y` and <user> stay. Attributes have no < or >, which keeps the time linear.
_TAG = re.compile(rf"</?({'|'.join(sorted(_TAGS, key=len, reverse=True))})(?:[\s/][^<>]*)?>|<!doctype\b[^<>]*>", re.I)


_OPENING = re.compile(r"<!--|<(script|style)(?:\s[^<>]*)?>", re.I)


_CLOSING = {name: re.compile(rf"</{name}\s*>", re.I) for name in ("script", "style")} | {None: re.compile("-->")}


_ENTITY = re.compile(r"&(#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]*);")


def html(text: str) -> str:
    """Returns a text without HTML; repeats until it is stable, e.g. for `&amp;lt;`, which is `<` escaped twice."""
    for _ in range(8):
        if "<" not in text and "&" not in text:
            return text
        before = text
        text = _TAG.sub(_in_place_of_tag, _without_hidden(text))
        text = _ENTITY.sub(_character, re.sub("&(?:amp;)+", "&", text))
        if text == before:
            return text
    return re.sub("[<&]", "", text)  # only text that is nested on purpose gets here


def whitespace(text: str) -> str:
    """Returns a text with single spaces, and none at the ends of a line."""
    return "\n".join([" ".join(line.split()) for line in text.split("\n")])


def _in_place_of_tag(found: re.Match) -> str:
    """Returns the replacement of a tag: a space if a browser would start a new line or cell, else nothing."""
    return "" if (found[1] or "").lower() in _INLINE else " "


def _character(found: re.Match) -> str:
    # An entity needs its semicolon, since `?a=1&lt=2` is a part of a URL.
    return unescape(found[0]) if found[1][0] == "#" else entities.html5.get(found[1] + ";", found[0])


def _without_hidden(text: str) -> str:
    """Returns a text without comments, scripts and styles; those that never end are kept."""
    parts, start, endless = [], 0, set()
    for opening in _OPENING.finditer(text):
        kind = opening[1] and opening[1].lower()
        if opening.start() < start or kind in endless:
            continue
        closing = _CLOSING[kind].search(text, opening.end())
        if closing is None:
            endless.add(kind)
            continue
        parts += [text[start : opening.start()], " " if kind else ""]
        start = closing.end()
    return "".join([*parts, text[start:]])


@functools.cache
def of_categories(*categories: str) -> str:
    """Returns the code points of Unicode categories, such as `L` or `Cc`, for a character class of a pattern."""
    ranges: list[list[int]] = []
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code)).startswith(categories):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)


@functools.cache
def _controls() -> re.Pattern:
    return re.compile(rf"(?![\n\t\u200c\u200d])[{of_categories('Cc', 'Cf')}]")
