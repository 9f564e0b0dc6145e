"""The bleach policy. Nothing else touches HTML that comes from a message.

Plain text needs none of this: it is kept as it is and escaped when shown. Markdown is rendered, then cleaned by an
allow-list, then encrypted, with its source beside it. Every caller goes through `markdown_to_html`, so a successor to bleach
is a change to this file.
"""

from __future__ import annotations

import re

import bleach
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

from errors import BodyTooLarge

MAX_MARKDOWN_BYTES = 16 * 1024
"""bleach costs 0.3–0.7 ms a KB of what it cleans, so both sides of the rendering are bounded."""
MAX_HTML_BYTES = 64 * 1024

_TAGS = frozenset("a p br hr h1 h2 h3 h4 h5 h6 strong em s code pre blockquote ul ol li table thead tbody tr th td".split())
_LINK_REL = "noopener noreferrer nofollow"
_PROTOCOLS = frozenset({"http", "https", "mailto"})
# bleach lets through what it takes for relative: //evil.example, /admin, tel:112.
_HREF = re.compile("https?://|mailto:", re.IGNORECASE)


def _attribute_allowed(tag: str, name: str, value: str) -> bool:
    if tag == "a":
        return (name == "href" and bool(_HREF.match(value))) or name == "title" or (name == "rel" and value == _LINK_REL)
    return tag == "ol" and name == "start" and value.isascii() and value.isdigit()


def _open_link(self: RendererHTML, tokens: list[Token], index: int, options: object, env: object) -> str:
    tokens[index].attrSet("rel", _LINK_REL)
    return self.renderToken(tokens, index, options, env)  # type: ignore[arg-type]


_MARKDOWN = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable(["table", "strikethrough"]).disable("image")
_MARKDOWN.add_render_rule("link_open", _open_link)


def markdown_to_html(source: str) -> str:
    """Render CommonMark with tables and strikethrough, and return only HTML that the allow-list names.

    Takes at most 16 KiB of UTF-8 that render to at most 64 KiB; raises BodyTooLarge beyond. No images, styles, classes or
    raw HTML; links are http(s) or mailto and carry `rel="noopener noreferrer nofollow"`.
    """
    if len(source.encode()) > MAX_MARKDOWN_BYTES:
        raise BodyTooLarge("A markdown message is at most 16 KiB. Send longer ones as text.")
    rendered = _MARKDOWN.render(source)
    if len(rendered.encode()) > MAX_HTML_BYTES:
        raise BodyTooLarge("This markdown renders to more than 64 KiB. Send it as text.")
    # A cleaner of its own each time: bleach says that they are not thread-safe.
    cleaner = bleach.Cleaner(tags=_TAGS, attributes=_attribute_allowed, protocols=_PROTOCOLS)
    return cleaner.clean(rendered)
