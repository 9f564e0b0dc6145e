"""Whatever markdown says, the HTML holds only what the allow-list names."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sanitize
from errors import BadRequest
from sanitize import MAX_HTML_BYTES, MAX_MARKDOWN_BYTES, markdown_to_html

TAGS = {
    *("a p br hr h1 h2 h3 h4 h5 h6 strong em s code pre blockquote ul ol li".split()),
    *("table thead tbody tr th td".split()),
}
REL = "noopener noreferrer nofollow"
HOSTILE = [
    "<script>alert(1)</script>",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "<img src=x onerror=alert(1)>",
    "![x](javascript:alert(1))",
    "![x](https://tracker.example/pixel.png)",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java&#10;script:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](&#x6A;&#x61;vascript&colon;alert(1))",
    "[x](\u0001javascript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](vbscript:msgbox(1))",
    "[x](file:///etc/passwd)",
    "[x](//evil.example)",
    "[x](/admin)",
    "<javascript:alert(1)>",
    "<https://ok.example>",
    '[x](https://ok.example "t" onclick="alert(1)")',
    '[x](https://ok.example "\\" onmouseover=\\"alert(1)")',
    "[x]: javascript:alert(1)\n\n[x]",
    '<a href="https://ok.example" target=_blank rel=opener>x</a>',
    '<p style="position:fixed" onclick=alert(1)>x</p>',
    "<svg><script>alert(1)</script></svg>",
    "<math><mi//xlink:href='data:x,<script>alert(4)</script>'>",
    "<!--<img src=x onerror=alert(1)>-->",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<style>*{display:none}</style>",
    "<iframe src=javascript:alert(1)>",
    "<form action=/delete><button>x</button></form>",
    "<base href=//evil.example>",
    "<meta http-equiv=refresh content=0>",
    "<details open ontoggle=alert(1)>",
    "|a|b|\n|:-:|-:|\n|<script>|[x](data:x)|",
    "0. one\n1. two",
    "99. x",
    "> # [![x](a)](javascript:b)",
    "```html\n<script>alert(1)</script>\n```",
    "~~<b>x</b>~~",
    "`<img src=x onerror=alert(1)>`",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "\\<script\\>alert(1)\\</script\\>",
    '<a\thref="javascript:x">',
    '<noscript><p title="</noscript><img src=x onerror=alert(1)>">',
]


class Allowed(HTMLParser):
    """Fails at the first thing that is not on the list; collects the text and the links."""

    def __init__(self, rel: bool = True) -> None:
        super().__init__(convert_charrefs=True)
        self.rel = {REL} if rel else {REL, None}
        self.shown = ""
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        named = dict(attrs)
        assert len(named) == len(attrs), attrs
        if tag == "a":
            assert set(named) <= {"href", "title", "rel"}, attrs
            assert named.get("rel") in self.rel, attrs
            if (href := named.get("href")) is not None:
                assert href.lower().startswith(("http://", "https://", "mailto:")), href
                self.links.append(href)
        elif tag == "ol":
            assert set(named) <= {"start"}, attrs
            assert (named.get("start") or "1").isdigit()
        else:
            assert not attrs, (tag, attrs)

    handle_startendtag = handle_starttag

    def handle_data(self, data: str) -> None:
        self.shown += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    handle_decl = handle_pi = unknown_decl = handle_comment


def checked(source: str, rel: bool = True) -> Allowed:
    parser = Allowed(rel)
    parser.feed(markdown_to_html(source))
    parser.close()
    return parser


@pytest.mark.parametrize("source", HOSTILE)
def test_hostile_markdown_leaves_only_what_the_list_names(source: str) -> None:
    checked(source)


@pytest.mark.parametrize(
    "href",
    [
        "javascript:a",
        "data:a",
        "vbscript:a",
        "file:///a",
        "//evil.example",
        "/admin",
        "#x",
        "ftp://a",
        "tel:1",
        "x-app:12",
        "a.html",
        "httpx://a",
        "https:a",
        "https:/a",
    ],
)
def test_links_lead_to_http_and_mail_only(href: str) -> None:
    assert checked(f"[x]({href})").links == []


@pytest.mark.parametrize("href", ["http://a.example/", "https://a.example/?b=c&d=e", "mailto:a@b.example"])
def test_allowed_links_are_kept_whole(href: str) -> None:
    assert checked(f"[x]({href})").links == [href]


@pytest.mark.parametrize("source", HOSTILE)
def test_cleaning_holds_alone_if_the_renderer_lets_html_through(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """The second line of defence, without the first; only `rel` is the renderer's part."""
    monkeypatch.setitem(sanitize._MARKDOWN.options, "html", True)
    checked(source, rel=False)


def test_raw_html_is_shown_as_text() -> None:
    assert checked("<script>alert('x')</script> & <b>").shown.strip() == "<script>alert('x')</script> & <b>"


def test_markdown_is_rendered() -> None:
    """The allow-list does not remove what markdown is for."""
    html = markdown_to_html("# a\n\n**b** *c* ~~d~~ `e`\n\n- f\n\n3. g\n\n> h\n\n|i|\n|-|\n|j|\n\n---\n\n    k")
    for tag in "h1 strong em s code ul li blockquote table thead tbody tr th td hr pre".split():
        assert f"<{tag}>" in html, tag
    assert '<ol start="3">' in html


PIECES = st.sampled_from(
    [
        *HOSTILE,
        *"< > \" ' & ; : ( ) [ ] ! # * _ ~ ` | \\ / = \n \t -".split(" "),
        "\n\n",
        " ",
        "href",
        "on",
        "script",
        "javascript:",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES | st.text(max_size=8), max_size=12).map("".join))
def test_no_mixture_of_hostile_pieces_gets_through(source: str) -> None:
    checked(source)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x00"), max_size=300))
def test_no_text_gets_through_as_anything_else(source: str) -> None:
    checked(source)


@pytest.mark.parametrize("source", ["a" * MAX_MARKDOWN_BYTES, "é" * (MAX_MARKDOWN_BYTES // 2)])
def test_markdown_of_16_kib_is_taken(source: str) -> None:
    assert checked(source).shown.strip() == source


@pytest.mark.parametrize("source", ["a" * (MAX_MARKDOWN_BYTES + 1), "é" * (MAX_MARKDOWN_BYTES // 2) + "a"])
def test_longer_markdown_is_refused(source: str) -> None:
    with pytest.raises(BadRequest, match="16 KiB"):
        markdown_to_html(source)


@pytest.mark.parametrize("piece", ["&", '"', "[a](http://b) "])
def test_markdown_that_renders_to_more_than_64_kib_is_refused(piece: str) -> None:
    """What bleach must clean is bounded as well: its cost is by the length of the HTML."""
    with pytest.raises(BadRequest, match="64 KiB"):
        markdown_to_html(piece * (MAX_MARKDOWN_BYTES // len(piece)))


def test_rendering_of_64_kib_is_taken() -> None:
    """The bound refuses what is over it and nothing else."""
    escaped = (MAX_HTML_BYTES - len("<p></p>\n")) // len("&amp;")
    assert checked("&" * escaped).shown.strip() == "&" * escaped
    with pytest.raises(BadRequest, match="64 KiB"):
        markdown_to_html("&" * (escaped + 1))
