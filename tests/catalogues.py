"""Bring the catalogues in `web/translations` up to date with the texts in code and templates; `make catalogues` runs it.

With a locale as argument (`make catalogues ARGS=de`) it begins that language's file. What is new stands there with an empty
`msgstr`; what nobody says any more goes.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

from babel import Locale
from babel.messages import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po, write_po

PROJECT = Path(__file__).resolve().parent.parent
TRANSLATIONS = Path("web") / "translations"

_METHODS = [
    ("web/templates/*.html", "jinja2"),
    ("*.py", "python"),
    ("access/*.py", "python"),
    ("fields/*.py", "python"),
    ("messages/*.py", "python"),
    ("web/*.py", "python"),
]
_OPTIONS = {"web/templates/*.html": {"extensions": "jinja2.ext.i18n", "trimmed": "true", "silent": "false"}}
_KEYWORDS: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(["_", "N_", "gettext", "say"], None),
    **dict.fromkeys(["ngettext", "count"], (1, 2)),
    # Errors: their texts stand where they are raised, or in their own __init__.
    **dict.fromkeys(["__init__", "BodyRefused", "BodyTooLarge", "UnsupportedBody", "MethodRefused", "Unavailable"], None),
    "WrongState": None,
    "FieldRefused": (2,),
}

_HEADER = """\
msgid ""
msgstr ""
"Language: {locale}\\n"
"Plural-Forms: {plural}\\n"
"Content-Type: text/plain; charset=utf-8\\n"

"""


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
    path.parent.mkdir(parents=True, exist_ok=True)
    locale = Locale.parse(path.parent.parent.name)
    catalogue = read_catalogue(path) if path.exists() else Catalog(locale)
    catalogue.update(texts, no_fuzzy_matching=True)
    write(path, catalogue)


def read_catalogue(path: Path) -> Catalog:
    """A catalogue as it stands."""
    with path.open("rb") as source:
        return read_po(source, path.parent.parent.name)


def write(path: Path, catalogue: Catalog) -> None:
    """Write a catalogue with no more of a header than readers of it need: dates and names stand in the history."""
    lines = BytesIO()
    write_po(lines, catalogue, width=120, ignore_obsolete=True, include_lineno=False, omit_header=True)
    path.write_text(_HEADER.format(locale=catalogue.locale, plural=catalogue.plural_forms) + lines.getvalue().decode())


if __name__ == "__main__":
    catalogues = {*map(catalogue_of, sys.argv[1:]), *(PROJECT / TRANSLATIONS).glob("*/LC_MESSAGES/messages.po")}
    for path in catalogues:
        update(path, extract())
