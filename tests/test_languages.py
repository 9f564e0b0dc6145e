"""The languages of the pages: complete, chosen by the reader, kept without cookies or scripts, and each of them one file."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
from babel.messages import Catalog

import errors
from tests import catalogues, serving
from tests.browser import chromium, visitor
from tests.requirements import require_program
from tests.serving import PROJECT, Served
from web import pages
from web.errors import TABLE
from web.languages import LANGUAGES, Language, without_language
from web.negotiation import wanted_by

HTML = {"Accept": "text/html"}
CATALOGUES = sorted((PROJECT / catalogues.TRANSLATIONS).glob("*/LC_MESSAGES/messages.po"))
SCRIPTS = sorted((PROJECT / "web" / "static" / "js").glob("*.js"))
NOWHERE = "/message/00000000-0000-4000-8000-000000000000"
DOCUMENT = {"v": 2, "adata": [["AA==", "AA==", 100_000, 256, 128, "aes", "gcm", "zlib"], "plaintext", 0, 0], "ct": "AAAA"}

all_languages = pytest.mark.parametrize("language", LANGUAGES.values(), ids=list(LANGUAGES))


def portuguese() -> Language:
    return LANGUAGES["pt-br"]


# The catalogues


@pytest.fixture(scope="module")
def texts() -> Catalog:
    """Every text that code and templates hold."""
    return catalogues.extract()


def placeholders(text: str) -> list[str]:
    return sorted(re.findall(r"%\(\w+\)s|%%|\{\w+\}", text))


def markup(text: str) -> list[str]:
    return sorted(re.findall(r"<[^>]*>", text))


def test_there_is_english_and_brazilian_portuguese() -> None:
    assert {(language.tag, language.name) for language in LANGUAGES.values()} >= {
        ("en", "English"),
        ("pt-BR", "Português (Brasil)"),
    }


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.parent.parent.name)
def test_catalogue_has_every_text_and_no_other(path: Path, texts: Catalog) -> None:
    """`make catalogues` brings it up to date."""
    catalogue = catalogues.read_catalogue(path)
    assert {text.id for text in catalogue if text.id} == {text.id for text in texts if text.id}


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.parent.parent.name)
def test_catalogue_is_translated_whole(path: Path) -> None:
    """Nothing empty or fuzzy, every plural form, the same placeholders and markup, and nothing that ends an attribute."""
    catalogue = catalogues.read_catalogue(path)
    for text in catalogue:
        if not text.id:
            continue
        ids = text.id if isinstance(text.id, tuple) else (text.id,)
        strings = text.string if isinstance(text.string, tuple) else (text.string,)
        assert not text.fuzzy, text.id
        assert len(strings) == (catalogue.num_plurals if text.pluralizable else 1), text.id
        for string in strings:
            assert string.strip(), text.id
            assert placeholders(string) == placeholders(ids[-1]), (text.id, string)
            assert markup(string) == markup(ids[-1]), (text.id, string)
            assert string.count('"') == ids[-1].count('"'), (text.id, string)


def test_texts_of_errors_and_their_titles_are_all_in_the_catalogue(texts: Catalog) -> None:
    """No error is put together from pieces: each has one text, with the values that vary beside it."""
    known = {text.id for text in texts}
    assert {title for _, _, title in TABLE} <= known
    shown = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.MayflyError)}
    shown -= {kind.__name__ for kind in (errors.StartRefused, errors.SettingRefused, errors.KeyFileRefused)}
    found = 0
    for path in (
        *PROJECT.glob("*.py"),
        *(path for room in ("access", "audit", "fields", "messages", "storage", "web") for path in (PROJECT / room).glob("*.py")),
    ):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            name = getattr(call.func, "id", getattr(call.func, "attr", ""))
            if name not in shown and not (name == "__init__" and path.name == "errors.py"):
                continue
            assert not any(isinstance(value, (ast.JoinedStr, ast.BinOp)) for value in call.args), f"{path}:{call.lineno}"
            said = [str(value.value) for value in call.args if isinstance(value, ast.Constant) and " " in str(value.value)]
            for text in said:
                if not re.fullmatch("[A-Z, ]+", text):  # the methods of `Allow`
                    found += 1
                    assert text in known, f"{path}:{call.lineno} {text}"
    assert found > 50


def test_scripts_show_no_text_of_their_own() -> None:
    """What they say is in texts.html, and all that is there is said."""
    templates = (PROJECT / "web" / "templates" / "texts.html").read_text().split("#}", 1)[1]
    keys = set(re.findall(r'data-text="([\w-]+?)(?:-\{\{ category \}\})?"', templates))
    asked: set[str] = set()
    literals: set[str] = set()
    for script in SCRIPTS:
        code = re.sub(r"/\*.*?\*/|//[^\n]*", "", script.read_text(), flags=re.DOTALL)
        assert not re.search(r"""(?:textContent|innerText|title|ariaLabel|placeholder) = ["'`][^"'`$]*[A-Za-z]{3}""", code), script
        assert not re.search(r"""\b(?:tell|alert|confirm|prompt)\(["'`][^"'`]""", code), script
        literals.update(re.findall(r"""["'`]([a-z][\w-]*)(?:["'`]|\$\{)""", code))
        for call in re.findall(r"\b(?:text|plural)\(([^()]*(?:\([^()]*\)[^()]*)*)\)", code):
            asked.update(re.findall(r"""(?:^|\? |: )"([a-z][\w-]*)"(?=,| :|$)""", call))
    assert len(asked) > 10
    assert asked <= keys
    assert {
        key for key in keys - literals if not any(prefix.endswith("-") and key.startswith(prefix) for prefix in literals)
    } == set()
    codes = {code for script in SCRIPTS for code in re.findall(r'\brefuse\("([\w-]+)"\)', script.read_text())}
    assert {f"envelope-{code}" for code in codes} == {key for key in keys if key.startswith("envelope-")}


# Plural forms, dates, numbers

PURGED = ("Purged %(num)s message.", "Purged %(num)s messages.")


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ("en", ["Purged 0 messages.", "Purged 1 message.", "Purged 2 messages.", "Purged 100 messages."]),
        ("pt-br", ["0 mensagem removida.", "1 mensagem removida.", "2 mensagens removidas.", "100 mensagens removidas."]),
    ],
)
def test_plural_forms_are_right(tag: str, said: list[str]) -> None:
    """Portuguese says zero in the singular, English in the plural."""
    assert [LANGUAGES[tag].count(*PURGED, number) for number in (0, 1, 2, 100)] == said


@all_languages
def test_plural_forms_of_scripts_are_those_of_the_catalogue(language: Language) -> None:
    """For every number `Intl.PluralRules` finds a text, and it is the one that gettext has for that number."""
    numbers = [*range(200), 1000, 1_000_000, 2_000_000]
    program = (
        f"const r = new Intl.PluralRules({json.dumps(language.tag)}); console.log(JSON.stringify({numbers}.map(n => r.select(n))))"
    )
    node = subprocess.run([require_program("node", "nodejs"), "-e", program], capture_output=True, check=True)
    samples = dict(language.plural_categories())
    for number, category in zip(numbers, json.loads(node.stdout), strict=True):
        assert language.texts.ngettext(*PURGED, samples[category]) == language.texts.ngettext(*PURGED, number)


def test_dates_sizes_and_durations_are_written_as_the_language_does() -> None:
    at = 1_795_000_000_000
    english = LANGUAGES["en"]
    assert english.moment(at) == "18 November 2026, 11:06 UTC"
    assert portuguese().moment(at) == "18 de novembro de 2026, 11:06 UTC"
    assert (english.size(1_572_864), portuguese().size(1_572_864)) == ("1.5 MiB", "1,5 MiB")
    assert (english.size(2**20 - 1), english.size(1000)) == ("1023.9 KiB", "1,000 bytes")
    assert [portuguese().duration(*lifetime) for lifetime in pages.LIFETIMES] == [
        "5 minutos",
        "1 hora",
        "1 dia",
        "3 dias",
        "7 dias",
    ]
    assert [english.duration(*lifetime) for lifetime in pages.LIFETIMES] == ["5 minutes", "1 hour", "1 day", "3 days", "7 days"]


# Which language a reader gets


@pytest.mark.parametrize(
    ("accepted", "tag"),
    [
        (None, "en"),
        ("", "en"),
        ("*", "en"),
        ("pt-BR", "pt-BR"),
        ("pt-br", "pt-BR"),
        ("PT-br;q=1.0", "pt-BR"),
        ("pt", "pt-BR"),
        ("pt-PT", "pt-BR"),
        ("en", "en"),
        ("en-GB,en;q=0.9,pt;q=0.8", "en"),
        ("pt-BR,pt;q=0.9,en-US;q=0.8,en;q=0.7", "pt-BR"),
        ("en;q=0.3,pt;q=0.5", "pt-BR"),
        ("fr", "en"),
        ("fr,de;q=0.9,pt;q=0.1", "pt-BR"),
        ("pt;q=0", "en"),
        ("pt-BR;q=0,fr", "en"),
        ("ptx, p, -", "en"),
        (";;,,q=1;;", "en"),
        ("pt;q=nonsense", "en"),
        ("x," * 2000 + "pt", "pt-BR"),
    ],
)
def test_page_is_in_the_language_that_the_browser_prefers(served: Served, accepted: str | None, tag: str) -> None:
    headers = {} if accepted is None else {"Accept-Language": accepted.encode()}
    request = served.http.build_request("GET", "/", headers={**HTML})
    request.headers.pop("Accept-Language", None)
    request.headers.update(headers)  # type: ignore[arg-type]
    assert language_of(served.http.send(request)) == tag


@pytest.mark.parametrize(
    ("query", "tag"),
    [
        ("lang=pt-BR", "pt-BR"),
        ("lang=pt-br", "pt-BR"),
        ("lang=en", "en"),
        ("utm_source=x&lang=pt-BR&y=1", "pt-BR"),
        ("lang=", None),
        ("lang=tlh", None),
        ("lang=pt_BR", None),
        ("lang=../../../etc/passwd", None),
        ('lang="><script>alert(1)</script>', None),
        ("slang=pt-BR", None),
        ("lang=%70%74", None),
    ],
)
@pytest.mark.parametrize("accepted", ["en", "pt-BR"])
def test_address_overrules_the_browser_where_it_names_a_language_there_is(
    served: Served, query: str, tag: str | None, accepted: str
) -> None:
    page = served.http.get(f"/?{query}", headers={**HTML, "Accept-Language": accepted})
    assert language_of(page) == (tag or accepted)
    assert "alert(1)" not in page.text
    assert "passwd" not in page.text


def test_answers_say_what_they_vary_by(served: Served) -> None:
    message = served.create("hi")
    assert served.http.get("/").headers["Vary"] == "Accept, Accept-Language"
    assert served.http.get(message.path, headers=HTML).headers["Vary"] == "Accept, Accept-Language"
    assert served.http.get(NOWHERE, headers=HTML).headers["Vary"] == "Accept, Accept-Language"
    for accept in ("application/json", "text/plain"):
        assert served.http.get(message.path, headers={"Accept": accept}).headers["Vary"] == "Accept"
        assert served.http.get(NOWHERE, headers={"Accept": accept}).headers["Vary"] == "Accept"
    assert "Vary" not in served.http.get("/static/icon.svg").headers


# The switcher, without scripts and without cookies


class Elements(HTMLParser):
    """The elements of a page, with the text directly in them; and what a person can see or hear of it."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str]]] = []
        self.visible: list[tuple[str, str]] = []
        self._open: list[tuple[str, dict[str, str]]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attributes}
        self.found.append((tag, named))
        self.visible += [
            (f"{tag}[{name}]", value) for name, value in named.items() if name in ("title", "alt", "placeholder", "aria-label")
        ]
        if tag not in ("meta", "link", "input", "br", "hr"):
            self._open.append((tag, named))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag, f"</{tag}> closes another element"

    def handle_data(self, text: str) -> None:
        if not text.strip():
            return
        tag, named = self._open[-1]
        if tag not in ("script", "style") and not any(own.get("class") == "languages" for _, own in self._open):
            self.visible.append((f"{tag} {named}", text))

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [own for name, own in self.found if name == tag and wanted.items() <= own.items()]


def language_of(page: httpx.Response) -> str:
    assert page.headers["Content-Type"].startswith("text/html"), page.headers
    (root,) = Elements(page.text).all("html")
    return root["lang"]


def switch_of(page: httpx.Response, tag: str) -> dict[str, str]:
    """The link of the switcher to a language."""
    (link,) = [
        own for own in Elements(page.text).all("a") if own.get("href", "").endswith(f"?lang={tag}") and own.get("lang") == tag
    ]
    return link


def follow(reader: httpx.Client, page: httpx.Response, address: str) -> httpx.Response:
    answer = reader.get(urljoin(str(page.url), address))
    assert "Set-Cookie" not in answer.headers
    return answer


def submit(reader: httpx.Client, page: httpx.Response, form_id: str, **fields: str) -> httpx.Response:
    """Send a form of a page as a browser does."""
    ((form),) = Elements(page.text).all("form", id=form_id)
    answer = reader.post(urljoin(str(page.url), form.get("action", "") or str(page.url)), data=fields)
    assert "Set-Cookie" not in answer.headers
    return answer


@pytest.fixture
def reader(served: Served) -> Iterator[httpx.Client]:
    """A browser without scripts and cookies that prefers English."""
    with httpx.Client(base_url=served.url, headers={**HTML, "Accept-Language": "en-US,en;q=0.9"}) as client:
        yield client


def test_language_is_kept_from_writing_to_the_receipt(served: Served, reader: httpx.Client) -> None:
    page = reader.get("/")
    assert language_of(page) == "en"
    page = follow(reader, page, switch_of(page, "pt-BR")["href"])
    made = submit(reader, page, "write", message="olá", views="2", passphrase="sob o salgueiro")
    assert (made.status_code, language_of(made)) == (201, "pt-BR")
    assert "Seu link está pronto" in made.text
    (look,) = Elements(made.text).all("a", id="look")
    (receipt,) = Elements(made.text).all("a", id="receipt")
    assert "lang" not in made.headers["Location"], "the link itself says nothing about its writer"

    reveal = follow(reader, made, look["href"])
    assert (language_of(reveal), "Há uma mensagem à sua espera" in reveal.text) == ("pt-BR", True)
    wrong = submit(reader, reveal, "open", open="yes", passphrase="sob a ponte")
    assert (wrong.status_code, language_of(wrong)) == (403, "pt-BR")
    assert "Essa frase secreta está errada. Tentativas restantes: 4." in wrong.text
    message = submit(reader, wrong, "open", open="yes", passphrase="sob o salgueiro")
    assert (message.status_code, language_of(message), "olá" in message.text) == (200, "pt-BR", True)

    receipt_page = follow(reader, made, receipt["href"])
    assert (language_of(receipt_page), "Aberta uma vez" in receipt_page.text) == ("pt-BR", True)
    burned = submit(reader, receipt_page, "burning", burn="yes")
    assert (language_of(burned), "Destruída" in burned.text) == ("pt-BR", True)
    gone = follow(reader, made, look["href"])
    assert (gone.status_code, language_of(gone), "Não há nada aqui" in gone.text) == (404, "pt-BR", True)
    back = follow(reader, gone, switch_of(gone, "en")["href"])
    assert (back.status_code, language_of(back), "Nothing here" in back.text) == (404, "en", True)
    (home,) = Elements(back.text).all("a", **{"class": "brand"})
    assert home["href"] == "/?lang=en"


def test_page_in_the_browsers_language_has_plain_addresses(served: Served, reader: httpx.Client) -> None:
    page = Elements(reader.get("/").text)
    assert page.all("form", id="write")[0]["action"] == "/"
    assert page.all("a", **{"class": "brand"})[0]["href"] == "/"


def test_choosing_a_language_loses_no_page_that_cannot_be_shown_again(served: Served, reader: httpx.Client) -> None:
    """The link just made and a message just opened stay where they are; every other page is shown again where it stands."""
    made = reader.post("/", data={"message": "hi", "views": "2"})
    opened = reader.post(made.headers["Location"], data={"open": "yes"})
    for page in (made, opened):
        link = switch_of(page, "pt-BR")
        assert (link["href"], link["target"]) == ("/?lang=pt-BR", "_blank")
    for page in (reader.get("/"), reader.get(made.headers["Location"]), reader.get(NOWHERE), reader.get("/admin")):
        link = switch_of(page, "pt-BR")
        assert "target" not in link
        again = follow(reader, page, link["href"])
        assert (again.status_code, again.url.path, language_of(again)) == (page.status_code, page.url.path, "pt-BR")


def test_admin_is_kept_in_the_language_through_signing_in(served: Served) -> None:
    with httpx.Client(base_url=served.url, headers=HTML, follow_redirects=True) as operator:
        page = operator.post("/admin?lang=pt-BR", data={"token": served.admin_token})
        assert (page.url.path, language_of(page), "O que este servidor guarda" in page.text) == ("/admin", "pt-BR", True)
        (form, *_) = Elements(page.text).all("form")
        assert form["action"] == "/admin?lang=pt-BR"
        wrong = operator.post("/admin?lang=pt-BR", data={"token": "wrong"})
        assert "Esse não é o token de administração." in wrong.text


def test_creating_takes_the_language_in_the_query_and_still_nothing_else(served: Served) -> None:
    sent = {"data": {"message": "hi"}}
    assert served.http.post("/?lang=pt-BR", **sent).status_code == 201  # type: ignore[arg-type]
    assert served.http.post("/?lang=pt-BR", json={"message": "hi"}).status_code == 201
    for query in ("views=1", "lang=en&views=1", "language=en", "x"):
        assert served.http.post(f"/?{query}", **sent).status_code == 400  # type: ignore[arg-type]
    text = {"content": b"hi", "headers": {"Content-Type": "text/plain", "Accept": "application/json"}}
    made = served.http.post("/?views=3&lang=pt-BR&expires_in=60", **text)  # type: ignore[arg-type]
    assert made.json()["views"] == 3
    assert served.http.post("/?views=3&langs=en", **text).status_code == 400  # type: ignore[arg-type]


def test_query_without_the_language_is_left_as_it_was() -> None:
    assert without_language("a=%FF&lang=en&b=+&lang=pt&c") == "a=%FF&b=+&c"
    assert without_language("a=1&slang=2") == "a=1&slang=2"


def test_scripts_speak_the_pages_language_and_keep_the_key_while_it_changes(served: Served) -> None:
    """The part of the link behind # goes along with the switcher, although the address bar shows it no more."""
    with chromium() as browser, visitor(browser, served) as page:
        page.goto("/?lang=pt-BR")
        page.fill("#message", "olá")
        page.click("main button[type=submit]")
        page.wait_for_selector("#made h1")
        assert page.text_content("#made h1") == "Seu link está pronto"
        assert page.text_content("#who") == "Só quem tiver o link pode ler isto; este servidor não pode."
        assert str(page.get_attribute("#receipt", "href")).endswith("?lang=pt-BR")
        link = str(page.text_content("#link"))
        assert "lang" not in link
        page.goto(link)
        assert page.text_content("h1") == "A message waits for you"
        assert "#" not in page.url
        page.click(".languages a[lang=pt-BR]")
        page.wait_for_selector("html[lang=pt-BR]")
        page.check("input[name=open]")
        page.click("#open button[type=submit]")
        page.wait_for_selector("#main > #message")
        assert page.text_content("#message") == "olá"
        assert page.text_content("#left") == "Esta foi a última vez. Ninguém mais pode abri-la: guarde o que precisar."


# Answers for scripts


@pytest.mark.parametrize("accept", ["application/json", "text/plain", "*/*"])
def test_answers_for_scripts_are_the_same_in_every_language(served: Served, accept: str) -> None:
    message = served.create("hi", views=3, passphrase="right")

    def answers(tag: str) -> list[tuple[int, bytes]]:
        how = {"headers": {"Accept": accept, "Accept-Language": tag}}
        query = f"?lang={tag}"
        asked = [
            served.http.get(message.path + query, **how),  # type: ignore[arg-type]
            served.http.get(NOWHERE + query, **how),  # type: ignore[arg-type]
            served.http.get(message.receipt_path + query, **how),  # type: ignore[arg-type]
            served.http.post(message.path + query, **how),  # type: ignore[arg-type]
            served.http.post(message.path + query, data={"passphrase": "right"}, **how),  # type: ignore[arg-type]
            served.http.post("/" + query, data={"message": ""}, **how),  # type: ignore[arg-type]
            served.http.post("/" + query, json={"message": "x", "views": 0}, **how),  # type: ignore[arg-type]
            served.http.put("/" + query, **how),  # type: ignore[arg-type]
            served.http.post("/delete" + query, **how),  # type: ignore[arg-type]
        ]
        return [(answer.status_code, answer.content) for answer in asked]

    english = answers("en")
    assert answers("pt-BR") == english
    assert b"Nothing here" in english[1][1] or b"There is no message here" in english[1][1]


# A third language, and no text without one

EDGES = "⟦", "⟧"
THIRD = "eo"


@pytest.fixture(scope="module")
def third_language(tmp_path_factory: pytest.TempPathFactory, texts: Catalog) -> Iterator[Served]:
    """Mayfly with one more file: a catalogue that puts every text into brackets."""
    copy = tmp_path_factory.mktemp("copy") / "mayfly"
    for part in (
        *PROJECT.glob("*.py"),
        *(PROJECT / name for name in ("access", "audit", "fields", "messages", "storage", "tests", "web")),
    ):
        if part.is_dir():
            shutil.copytree(part, copy / part.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            copy.mkdir(exist_ok=True)
            shutil.copy(part, copy)
    path = catalogues.catalogue_of(THIRD, copy)
    catalogues.update(path, texts)
    catalogue = catalogues.read_catalogue(path)
    for text in catalogue:
        if text.id:
            ids = text.id if isinstance(text.id, tuple) else (text.id,)
            strings = tuple(f"{EDGES[0]}{said}{EDGES[1]}" for said in ids)
            text.string = strings if text.pluralizable else strings[0]
    catalogues.write(path, catalogue)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "PROJECT", copy)
        with Served(tmp_path_factory.mktemp("served"), MAYFLY_CREATE_RATE="0", MAYFLY_MAX_MESSAGE_BYTES="1024") as running:
            yield running


def states(served: Served) -> Iterator[tuple[str, httpx.Response]]:
    """Every page in every state, as a browser without scripts sees it."""
    with httpx.Client(base_url=served.url, headers={**HTML, "Accept-Language": THIRD}) as reader:
        yield "write", reader.get("/")
        yield "created", reader.post("/", data={"message": "1"})
        yield "created once", reader.post("/", data={"message": "1", "views": "1"})
        yield "created thrice", reader.post("/", data={"message": "1", "views": "3"})
        yield from _reading(served, reader)
        yield from _receipts(served, reader)
        yield from _refusals(served, reader)
        yield from _admin(served, reader)


def _reading(served: Served, reader: httpx.Client) -> Iterator[tuple[str, httpx.Response]]:
    opening = {"open": "yes", "idempotency_key": "0123456789abcdef"}
    yield "free", reader.get(served.create("1").path)
    yield "markdown", reader.get(served.create("*1*", format="markdown").path)
    for views in (1, 2, 3):
        message = served.create("1", views=views)
        yield f"reveal {views}", reader.get(message.path)
        yield f"no tick {views}", reader.post(message.path, data={"open": "no"})
        yield f"message {views}", reader.post(message.path, data=opening)
    locked = served.create("1", passphrase="right")
    yield "reveal locked", reader.get(locked.path)
    yield "no passphrase", reader.post(locked.path, data=opening)
    for tries in range(5):
        yield f"wrong {tries}", reader.post(locked.path, data={**opening, "passphrase": "wrong"})
    sealed = reader.post("/", json={"document": DOCUMENT, "proof": "A" * 43}, headers={"Accept": "application/json"})
    assert sealed.status_code == 201, sealed.text
    path = httpx.URL(sealed.json()["link"]).path
    yield "reveal sealed", reader.get(path)
    yield "sealed without proof", reader.post(path, data=opening)


def _receipts(served: Served, reader: httpx.Client) -> Iterator[tuple[str, httpx.Response]]:
    for views in (None, 1, 2, 3):
        message = served.create("1", views=views)
        yield f"waiting {views}", reader.get(message.receipt_path)
        served.http.post(message.path)
        yield f"opened once of {views}", reader.get(message.receipt_path)
        served.http.post(message.path)
        yield f"opened twice of {views}", reader.get(message.receipt_path)
        yield f"burned {views}", reader.post(message.receipt_path, data={"burn": "yes"})
    yield "burned unopened", reader.post(served.create("1", views=1).receipt_path, data={"burn": "yes"})
    locked, opened = served.create("1", passphrase="right"), served.create("1", passphrase="right", views=2)
    served.http.post(opened.path, json={"passphrase": "right"})
    for _ in range(5):
        served.http.post(locked.path, json={"passphrase": "wrong"})
        served.http.post(opened.path, json={"passphrase": "wrong"})
    yield "locked", reader.get(locked.receipt_path)
    yield "locked opened", reader.get(opened.receipt_path)
    expired = served.create("1", views=1, expires_in=60)
    served.clock.advance(61)
    yield "expired", reader.get(expired.receipt_path)


def _refusals(served: Served, reader: httpx.Client) -> Iterator[tuple[str, httpx.Response]]:
    yield "404", reader.get(NOWHERE)
    yield "no route", reader.get("/no/such/page")
    yield "405", reader.put("/")
    yield "401", reader.post("/delete")
    yield "empty", reader.post("/", data={"message": ""})
    yield "unknown field", reader.post("/", data={"message": "x", "password": "y"})
    yield "missing", reader.post("/", data={"views": "1"})
    yield "views", reader.post("/", data={"message": "x", "views": "0"})
    yield "format", reader.post("/", data={"message": "x", "format": "html"})
    yield "too large", reader.post("/", data={"message": "x" * 1025})
    yield "body too large", reader.post("/", data={"message": "x" * 200_000})
    yield "chunked", reader.post("/", content=iter([b"message=x"]))
    yield "encoded", reader.post("/", content=b"x", headers={"Content-Encoding": "gzip"})
    yield "type", reader.post("/", content=b"x", headers={"Content-Type": "image/png"})
    yield "not JSON", reader.post("/", content=b"{", headers={"Content-Type": "application/json"})
    yield "deep", reader.post("/", json={"message": json.loads("[" * 20 + "]" * 20)})
    yield "text", reader.post("/", json={"message": 1})
    yield "query", reader.post("/?views=1", data={"message": "x"})
    yield "host", reader.get("/", headers={"Host": "evil.example"})
    yield "prefetch", reader.get("/", headers={"Sec-Purpose": "prefetch"})
    yield "burn", reader.post(served.create("1").receipt_path, data={"burn": "no"})


def _admin(served: Served, reader: httpx.Client) -> Iterator[tuple[str, httpx.Response]]:
    yield "sign in", reader.get("/admin")
    yield "wrong token", reader.post("/admin", data={"token": "wrong"})
    yield "forged", reader.post("/admin", data={"token": "wrong"}, headers={"Sec-Fetch-Site": "cross-site"})
    yield "ended", reader.post("/admin", data={"do": "purge"})
    reader.post("/admin", data={"token": served.admin_token})
    page = reader.get("/admin")
    yield "admin", page
    token = {"form_token": Elements(page.text).all("input", name="form_token")[0]["value"]}
    yield "purged", reader.post("/admin", data={**token, "do": "purge"})
    yield "nothing there", reader.post("/admin", data={**token, "do": "take-down", "link": "x"})
    yield "taken down", reader.post("/admin", data={**token, "do": "take-down", "link": served.create("1").link})
    yield "fields", reader.post("/admin", data={**token, "do": "dance"})
    yield "forged token", reader.post("/admin", data={"do": "purge", "form_token": "x"})
    for _ in range(12):
        answer = reader.post("/admin", data={"token": "wrong"})
    yield "too often", answer


# What stands outside the brackets and is no text: names, units, addresses. The messages of `states` hold no letter.
OUTSIDE = re.compile(r"Mayfly|Markdown|[KMGT]iB|UTC|http://\S+")


def untranslated(page: str) -> list[tuple[str, str]]:
    """What a person can see or hear of a page that is in no catalogue. Dates and durations are the locale's."""
    rest = re.sub(r"<time [^>]*>[^<]*</time>|<option value=\"\d+\"[^>]*>[^<]*</option>", "", page)
    rest = re.sub(r"⟦[^⟦⟧]*⟧", "", rest)
    return [(where, text) for where, text in Elements(rest).visible if re.search(r"[^\W\d_]", OUTSIDE.sub("", text))]


def test_no_text_is_left_on_any_page(third_language: Served) -> None:
    """Every page in every state, rendered with a catalogue of brackets, has no letter outside brackets."""
    seen = set()
    for name, page in states(third_language):
        assert page.headers["Content-Type"].startswith("text/html"), name
        assert language_of(page) == THIRD, name
        assert page.text.count(EDGES[0]) > 3, name
        assert untranslated(page.text) == [], name
        seen.add((page.status_code, name))
    assert {status for status, _ in seen} >= {200, 201, 400, 401, 403, 404, 405, 411, 413, 415, 429}


def test_a_third_language_is_one_file(third_language: Served) -> None:
    """Nothing but its catalogue was added, and it is negotiated, offered on every page, and beside the others."""
    copy = serving.PROJECT
    added = {path.relative_to(copy) for path in copy.rglob("*.*") if "__pycache__" not in path.parts and path.is_file()}
    added -= {path.relative_to(PROJECT) for path in PROJECT.rglob("*.*")}
    assert added == {catalogues.TRANSLATIONS / THIRD / "LC_MESSAGES" / "messages.po"}
    for address in ("/", "/admin", NOWHERE):
        for tag in ("en", "pt-BR", THIRD):
            page = third_language.http.get(address, headers={**HTML, "Accept-Language": tag})
            assert language_of(page) == tag
            others = {own["lang"] for own in Elements(page.text).all("a") if "lang" in own}
            assert others == {"en", "pt-BR", THIRD} - {tag}
            (current,) = Elements(page.text).all("span", **{"aria-current": "true"})
            assert current["lang"] == tag


def test_untranslated_text_is_found() -> None:
    """The check for what is left can fail: on text, on attributes, and on what scripts show."""
    page = "<p>⟦in⟧ <b>left</b></p><p aria-label='left'>⟦in⟧</p><template><span>left</span></template><p class=link>http://x</p>"
    assert [text for _, text in untranslated(page)] == ["left", "left", "left"]


def test_gate_answers_in_the_readers_language_before_flask_is_asked() -> None:
    """A page of an error needs nothing but the environ."""
    environ = {"PATH_INFO": "/", "HTTP_ACCEPT": "text/html", "HTTP_ACCEPT_LANGUAGE": "pt"}
    page = pages.error(wanted_by(environ), 404, "a", "b").decode()
    assert "Ir para o conteúdo" in page
