"""Sphinx builds the site with this, offline, from what ``docs/sources.py`` lays out: ``make docs``."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.ext.napoleon import GoogleDocstring

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from finish import finish_site  # noqa: E402

import hpslib  # noqa: E402
from hpslib.lessons.formulas import formula_block, mathml  # noqa: E402

project = "hpslib"
author = "The hpslib developers"
project_copyright = author
version = release = hpslib.__version__
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
default_role = "code"
add_module_names = False
python_maximum_signature_line_length = 90
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
modindex_common_prefix = ["hpslib."]

# The lessons as they are stored; nothing is run, and nothing is fetched by a page.
nb_execution_mode = "off"
nb_merge_streams = True
nb_code_prompt_show = "Show the set-up"
nb_code_prompt_hide = "Hide the set-up"
nb_ipywidgets_js: dict[str, Any] = {}
nb_mime_priority_overrides = [("html", "text/html", 10), ("html", "image/png", 20)]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "hpslib"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
html_show_search_summary = False  # it fetches pages, which a browser refuses where they are opened as files
html_permalinks_icon = "#"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#14507a", "color-brand-content": "#14507a"},
    "dark_css_variables": {"color-brand-primary": "#8fc3ea", "color-brand-content": "#8fc3ea"},
}

#: Whose classes our signatures name; the site has no page for them, and is built without asking theirs.
THIRD_PARTY = sys.stdlib_module_names | {
    "accelerate",
    "anywidget",
    "datasets",
    "diffusers",
    "ipywidgets",
    "matplotlib",
    "nbformat",
    "numpy",
    "open_clip",
    "pandas",
    "peft",
    "PIL",
    "pyarrow",
    "scipy",
    "tokenizers",
    "torch",
    "torchvision",
    "transformers",
    "typer",
}


#: Type variables, and a name that anywidget's own signatures use.
_TYPE_VARIABLES = ("hpslib.runs.distributed.T", "hpslib.runs.distributed.R", "hpslib.critters.attributes.AnyCritter")
nitpick_ignore = [("py:class", name) for name in (*_TYPE_VARIABLES, "t.Any")]


def in_sphinx_dialect(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are prose with double backticks and ``Args:``; here bars, stars and sections become Sphinx's own."""
    for k, line in enumerate(lines):
        if not line.lstrip().startswith(">>>"):
            parts = re.split(r"(``.*?``)", line)
            plain = (re.sub(r"\||(?<![\w*])\*(?=\w+[,)])", r"\\\g<0>", part) for part in parts[::2])
            parts[::2] = plain
            lines[k] = "".join(parts)
    if what == "data" and lines and lines[0] == (inspect.getdoc(type(obj)) or "").partition("\n")[0]:
        lines.clear()  # what Python says about all dictionaries, say
    if what in ("module", "class", "exception", "function", "method"):
        lines[:] = GoogleDocstring(lines, what=what, name=name, obj=obj).lines()


def in_words(app: Any, what: str, name: str, obj: Any, options: Any, signature: str, returns: str) -> tuple[str, str]:
    """A dataclass says ``<factory>`` where a field starts anew for each object; Sphinx reads no such default."""
    return signature and signature.replace("<factory>", "..."), returns


@cache
def imported(module: str) -> dict[str, str]:
    """What the names in a module's file stand for, imports for type checkers only included."""
    path = importlib.import_module(module).__file__
    names = {}
    for node in ast.walk(ast.parse(Path(str(path)).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.asname or alias.name: alias.name for alias in node.names}
    return names


def public(module: str | None, name: str) -> bool:
    """Whether a name is one that its module shows to others, and so has a place on a page."""
    if not re.fullmatch(r"[\w.]+", name) or name.split(".")[-1].startswith("_"):
        return False
    here = importlib.import_module(module) if module else None
    return not (here and hasattr(here, name) and name not in here.__all__)


def resolve(app: Any, env: Any, node: nodes.Element, contnode: nodes.Element) -> nodes.Element | None:
    """Follow a name to its page by way of the imports of the module that says it; others' names become plain text."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    first, _, rest = target.partition(".")
    if module := node.get("py:module"):
        full = imported(module).get(first, first) + (f".{rest}" if rest else "")
    else:
        full = target
    if full.split(".")[0] in THIRD_PARTY or hasattr(builtins, full) or not public(module, full):
        return contnode
    for name in (full, f"hpslib.{full}"):
        found = env.domains["py"].find_obj(env, None, None, name, None)
        if found:
            kind = node["reftype"] if node["reftype"] != "class" else "obj"
            return env.domains["py"].resolve_xref(env, node["refdoc"], app.builder, kind, found[0][0], node, contnode)
    return None


def visit_math(self: Any, node: nodes.Element) -> None:
    self.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def visit_math_block(self: Any, node: nodes.Element) -> None:
    self.body.append(formula_block(node.astext()))
    raise nodes.SkipNode


class Links:
    """The links that lead out of the site, to be looked at by a person: the build asks no server."""

    def __init__(self) -> None:
        self.pages: dict[str, set[str]] = {}

    def collect(self, app: Any, doctree: nodes.document, docname: str) -> None:
        for node in doctree.findall(nodes.reference):
            if re.match(r"https?:", node.get("refuri", "")):
                self.pages.setdefault(node["refuri"], set()).add(docname)

    def write(self, app: Any, exception: Exception | None) -> None:
        lines = [f"{uri}  ({', '.join(sorted(pages))})" for uri, pages in sorted(self.pages.items())]
        Path(app.outdir).with_name("links.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")


def finish_pages(app: Any, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        finish_site(Path(app.outdir))


def setup(app: Any) -> dict[str, Any]:
    links = Links()
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.connect("autodoc-process-docstring", in_sphinx_dialect)
    app.connect("autodoc-process-signature", in_words)
    app.connect("missing-reference", resolve)
    app.connect("doctree-resolved", links.collect)
    app.connect("build-finished", links.write)
    app.connect("build-finished", finish_pages)
    return {"parallel_read_safe": False, "parallel_write_safe": False}
