"""Bring the catalogues in `web/translations` up to date with the texts in code and templates; `make catalogues` runs it.

With a locale as argument (`make catalogues ARGS=de`) it begins that language's file. What is new stands there with an empty
`msgstr`; what nobody says any more goes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from babel import Locale
from babel.messages import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po, write_po

PROJECT = Path(__file__).resolve().parent.parent
TRANSLATIONS = Path("web") / "translations"

_METHODS = [("web/templates/*.html", "jinja2"), ("*.py", "python"), ("web/*.py", "python")]
_OPTIONS = {"web/templates/*.html": {"extensions": "jinja2.ext.i18n", "trimmed": "true", "silent": "false"}}
_KEYWORDS: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(["_", "N_", "gettext", "say"], None),
    **dict.fromkeys(["ngettext", "count"], (1, 2)),
    # Errors: their texts stand where they are raised, or in their own __init__.
    **dict.fromkeys(["__init__", "BodyRefused", "BodyTooLarge", "UnsupportedBody", "MethodRefused", "Unavailable"], None),
    "FieldRefused": (2,),
}


def extract(project: Path = PROJECT) -> Catalog:
    """Every text for people that code and templates hold."""
    found = Catalog(charset="utf-8")
    for file, _, text, comments, context in extract_from_dir(project, _METHODS, _OPTIONS, _KEYWORDS):
        found.add(text, locations=[(file, None)], auto_comments=comments, context=context)
    return found


def catalogue_of(locale: str, project: Path = PROJECT) -> Path:
    """Where the catalogue of a language is."""
    return project / TRANSLATIONS / locale / "LC_MESSAGES" / "messages.po"


def update(path: Path, texts: Catalog) -> None:
    """Give a catalogue exactly these texts, and keep the translations it has."""
    with path.open("rb") as source:
        catalogue = read_po(source, path.parent.parent.name)
    catalogue.update(texts, no_fuzzy_matching=True)
    with path.open("wb") as target:
        write_po(target, catalogue, width=120, ignore_obsolete=True, include_lineno=False)


def begin(path: Path) -> None:
    """An empty catalogue for a new language."""
    path.parent.mkdir(parents=True)
    with path.open("wb") as target:
        write_po(target, Catalog(Locale.parse(path.parent.parent.name), project="Mayfly", charset="utf-8", fuzzy=False))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        begin(catalogue_of(name))
    for file in sorted((PROJECT / TRANSLATIONS).glob("*/LC_MESSAGES/messages.po")):
        update(file, extract())
