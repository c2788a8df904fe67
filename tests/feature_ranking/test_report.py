"""The page: well-formed, self-contained, safe for any name; the JSON beside it."""

from __future__ import annotations

import html.parser
import json

from recsys.feature_ranking import report
from recsys.feature_ranking.ranking import Ranking
from recsys.feature_ranking.suggest import suggest


class Page(html.parser.HTMLParser):
    """Tags that are open at the end, and what the page fetches."""

    void = frozenset({"meta", "input", "rect", "line", "circle", "polyline", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.rows = 0

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag not in self.void:
            self.open.append(tag)
        self.rows += tag == "tr"
        self.fetched += [value for key, value in attrs if key in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.void:
            assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(found: Ranking) -> None:
    page = Page()
    page.feed(report.render(found, suggest(found.features, found.rare, found.pairs)))
    assert page.open == []
    assert page.fetched == []
    assert page.rows > 10 + 6 + 10


def test_json_holds_no_number_that_is_none(found: Ranking) -> None:
    def refuse(text: str) -> float:
        raise AssertionError(text)

    read = json.loads(report.as_json(found), parse_constant=refuse)
    assert [row["feature"] for row in read["features"]] == found.features["feature"].to_list()
    assert read["facts"]["classes"].keys() == {"0", "1"}
