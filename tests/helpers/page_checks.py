"""Whether a page is valid, whole, and asks nothing of the network."""

import re
from html.parser import HTMLParser


class Checker(HTMLParser):
    """Raises where elements are not closed in their order, an id stands twice, or something would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert len(given) == len(attrs), f"an attribute stands twice: {attrs}"
        if "id" in given:
            assert given["id"] not in self.ids, f"{given['id']} stands twice"
            self.ids.add(str(given["id"]))
        for key in ("src", "href", "xlink:href", "action", "srcset"):
            assert str(given.get(key, "#")).startswith(("#", "data:")), f"{tag} asks for {given[key]}"
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


def check_page(text: str) -> None:
    checker = Checker()
    checker.feed(text)
    assert not checker.open and len(text) < 3_000_000
    targets = set(re.findall(r'<a href="#([^"]+)"', text))
    assert targets <= checker.ids
    styles = "".join(re.findall(r"<style>(.*?)</style>", text, flags=re.DOTALL))
    assert "@import" not in styles and "url(" not in styles
    script = re.findall(r'<script type="module">(.*?)</script>', text, flags=re.DOTALL)
    assert len(script) == 1 and not re.search(r"fetch\(|XMLHttpRequest|import ", script[0])
    assert set(re.findall(r"var\(--([\w-]+)\)", text)) <= set(re.findall(r"--([\w-]+):", styles))
