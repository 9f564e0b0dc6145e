"""The languages of the pages: which there are, which one somebody is answered in, and how each writes dates and numbers.

English is the source; every other language is one file, `translations/<locale>/LC_MESSAGES/messages.po`, read at the start.
People are answered in their language; JSON and plain text stay English, so that scripts can rely on them (decision record 0008).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from gettext import GNUTranslations, NullTranslations
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from babel import Locale
from babel.dates import format_date, format_time, format_timedelta
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import format_decimal
from babel.units import format_unit
from werkzeug.datastructures import LanguageAccept
from werkzeug.http import parse_accept_header

from records import Millis

_WHOLE_NUMBERS = (*range(200), 1_000_000)
"""In them every plural category occurs that whole numbers have in some language."""
_LANG = re.compile("(?:^|&)lang=([A-Za-z-]{2,35})(?:&|$)")


@dataclass(frozen=True, eq=False, slots=True)
class Language:
    """A language of the pages. `tag` is as in `Accept-Language` and `<html lang>`, `name` what the language calls itself."""

    tag: str
    name: str
    locale: Locale
    texts: NullTranslations

    def say(self, text: str, **values: object) -> str:
        """A text of the catalogue, with its `%(name)s` filled in."""
        said = self.texts.gettext(text)
        return said % values if values else said

    def count(self, one: str, many: str, num: int) -> str:
        """A text of the catalogue that depends on the number `%(num)s`."""
        return self.texts.ngettext(one, many, num) % {"num": num}

    def moment(self, at: Millis) -> str:
        """A date and time for people, in UTC."""
        when = datetime.fromtimestamp(at // 1000, UTC)
        return f"{format_date(when, 'long', self.locale)}, {format_time(when, 'short', locale=self.locale)} UTC"

    def duration(self, seconds: int, unit: Literal["minute", "hour", "day"]) -> str:
        """`5 minutes`: a time in whole units."""
        return format_timedelta(timedelta(seconds=seconds), granularity=unit, threshold=seconds, locale=self.locale)

    def about(self, duration: Millis) -> str:
        """`3 minutes`: a time, roughly, in the largest unit that fits."""
        return format_timedelta(timedelta(milliseconds=duration), locale=self.locale)

    def size(self, count: int) -> str:
        """A number of bytes: `16 KiB`, `1.5 MiB`. Rounded down, so that no limit is told as more than it is."""
        for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
            if count >= 1024**power:
                return f"{format_decimal(count * 10 // 1024**power / 10, '0.#', self.locale)} {unit}"
        return format_unit(count, "digital-byte", "long", locale=self.locale)

    def plural_categories(self) -> list[tuple[str, int]]:
        """The categories that `Intl.PluralRules` puts whole numbers into, each with one of its numbers."""
        numbers: dict[str, int] = {}
        for number in _WHOLE_NUMBERS:
            numbers.setdefault(self.locale.plural_form(number), number)
        return list(numbers.items())


def N_(text: str) -> str:
    """Mark a text for the catalogues where it stands; it is said somewhere else."""
    return text


def read_languages(folder: Path) -> dict[str, Language]:
    """English, and the language of each catalogue in `folder`, by their tags in lower case."""
    # Britain's way with dates and times: the day first, 24 hours.
    english = Language("en", "English", Locale.parse("en_GB"), NullTranslations())
    return {"en": english} | {
        language.tag.lower(): language for language in map(_read_language, sorted(folder.glob("*/LC_MESSAGES/messages.po")))
    }


def _read_language(path: Path) -> Language:
    locale = Locale.parse(path.parent.parent.name)
    with path.open("rb") as source:
        catalogue = read_po(source, locale)
    compiled = BytesIO()
    write_mo(compiled, catalogue)
    compiled.seek(0)
    name = locale.get_display_name() or str(locale)
    return Language(str(locale).replace("_", "-"), name[:1].upper() + name[1:], locale, GNUTranslations(compiled))


LANGUAGES = read_languages(Path(__file__).resolve().parent / "translations")


def language_for(environ: dict[str, Any]) -> tuple[Language, bool]:
    """The language to answer in, and whether the address chose it: `lang=` in the query, else `Accept-Language`, else English."""
    named = _LANG.search(environ.get("QUERY_STRING", ""))
    chosen = LANGUAGES.get(named[1].lower()) if named else None
    return (chosen, True) if chosen else (_preferred(environ.get("HTTP_ACCEPT_LANGUAGE", "")), False)


def without_language(query: str) -> str:
    """A query without its `lang`, which every address takes; the rest is the route's."""
    return "&".join(part for part in query.split("&") if not part.startswith("lang=")) if "lang=" in query else query


@lru_cache(maxsize=256)
def _preferred(accept_language: str) -> Language:
    """The first language of the client's that there is. A Portuguese of another country is Portuguese."""
    for tag, quality in parse_accept_header(accept_language, LanguageAccept):
        if quality <= 0:
            continue
        if found := LANGUAGES.get(tag.lower()):
            return found
        for language in LANGUAGES.values():
            if language.locale.language == tag.lower().partition("-")[0]:
                return language
    return LANGUAGES["en"]
