"""Sphinx: `sphinx-build -W docs docs/_build` builds the documentation; a warning is an error."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import lm  # noqa: E402

project, author, version = "lm", "The lm authors", lm.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
highlight_language = "text"  # blocks without a language are output
html_theme = "furo"
html_title = f"lm {version}"
html_show_sphinx = html_show_copyright = False
html_copy_source = False

nb_execution_mode = "off"  # a test executes the notebook; its outputs are kept in the file
myst_heading_anchors = 3  # page.md#heading, as on GitHub

autodoc_default_options = {"members": True, "undoc-members": False, "member-order": "bysource"}
autodoc_typehints = "none"  # the signature has them
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True


def setup(app):
    """Connects the two functions below."""
    app.connect("source-read", unlink_files)
    app.connect("autodoc-process-docstring", as_restructured, priority=400)  # before napoleon, which has 500


def unlink_files(app, name, source):
    """Makes links to files outside `docs/` plain text: GitHub shows these files, the built pages have none."""
    source[0] = re.sub(r"\[([^\]]+)\]\((?:\.\./)+(?!reference|\w+\.md)[^)]*\)", r"\1", source[0])


def as_restructured(app, kind, name, thing, options, lines):
    """Turns the little Markdown of docstrings into reStructuredText: code is in double backticks, signs are escaped."""
    literal = False
    for number, line in enumerate(lines):
        literal = line.startswith(" ") and literal if line.strip() else literal
        if not literal:
            parts = re.split(r"(`[^`]+`)", line)
            lines[number] = "".join(
                f"`{part}`" if part.startswith("`") else re.sub(r"(?<=\w)_(?=\W|$)|[*|]", r"\\\g<0>", part)
                for part in parts
            )
            literal = line.endswith("::")
