"""Refuses requests that a web page of another origin makes: a server without keys trusts every program on this machine,
and a browser on this machine reaches it for every page that it shows."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LOOPBACK = re.compile(rb"(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?", re.IGNORECASE)
_FOREIGN = (b"cross-site", b"same-site")
# What a page may send to another origin without asking first (Fetch standard, CORS-safelisted). A form's default type
# stays allowed, as it is curl's, and browsers name the origin with it.
_PAGE_MEDIA = (b"text/plain", b"multipart/form-data")


class ForeignOrigin(Exception):
    """The request comes from a web page of another origin, or names another host; the text says which."""


class PageMedia(Exception):
    """The body has a type that web pages may send anywhere without asking."""


def check_same_origin(headers: Iterable[tuple[bytes, bytes]], *, is_safe: bool) -> None:
    """Raise ForeignOrigin or PageMedia unless *headers* are those of a program, or of a page of the server itself.

    The host has to be a loopback name, or a page's name could be pointed at this machine (DNS rebinding). An origin, if
    one is sent, has to be that host. *is_safe* is said of GET and HEAD, which a link on any page may ask for.
    """
    host = origin = media = b""
    for name, value in headers:
        if name == b"host":
            host = value
        elif name == b"origin":
            origin = value
        elif name == b"content-type":
            media = value
        elif name == b"sec-fetch-site" and value in _FOREIGN and not is_safe:
            raise ForeignOrigin(f"a page of another site asks ({value.decode()})")
    if host and not _LOOPBACK.fullmatch(host):
        raise ForeignOrigin(f"the host {host[:100].decode(errors='replace')} is not this machine")
    if origin and origin.partition(b"://")[2].lower() != host.lower():
        raise ForeignOrigin(f"a page of {origin[:100].decode(errors='replace')} asks")
    if media and media.partition(b";")[0].strip().lower() in _PAGE_MEDIA:
        raise PageMedia
