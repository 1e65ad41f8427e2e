"""The page is one file that stands alone, shows text as text, and is written whole or not at all."""

from __future__ import annotations

import base64
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import xarray as xr

from physml import plot
from physml.report import Report

FIGURE = plot.maps(xr.DataArray(np.eye(3), dims=("y", "x")))


class Page(HTMLParser):
    """Collects tags with their attributes, and the text."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]


def full_report() -> Report:
    report = Report("Mass & <motion>", "First.\n\nAfter doi:10.1103/PhysRevLett.126.098302.", {"version": "0.1.0 <x>"})
    report.number(1.3e-7, "relative drift", "What was created or lost: the rounding of numbers.")
    report.section("Maps & more", "Look.", [(FIGURE, 'The "truth" & a forecast.')])
    report.section(
        "Numbers", "See below.", table=[{"network": "cnn", "rmse": 0.123456}, {"network": "t", "rmse": None}]
    )
    return report


def test_the_page_is_well_formed_and_needs_nothing_from_elsewhere(tmp_path):
    path = full_report().write(tmp_path / "out" / "report.html")
    assert sorted(p.name for p in path.parent.iterdir()) == ["report.html"]
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert page.open == []
    assert {"script", "link", "iframe", "object"}.isdisjoint(tag for tag, _ in page.tags)
    assert "url(" not in html and "@import" not in html
    for _, attrs in page.tags:
        assert not attrs.get("src") or attrs["src"].startswith("data:image/png;base64,")
        href = attrs.get("href", "#")
        assert href.startswith("#") or re.fullmatch(r"https://doi\.org/10\..*", href)
    assert page.all("html") == [{"lang": "en"}]
    assert any(m.get("name") == "viewport" for m in page.all("meta"))
    assert "prefers-color-scheme: dark" in html and "@media print" in html


def test_figures_are_embedded_with_their_caption_for_those_who_cannot_see_them():
    (image,) = Page(full_report().html()).all("img")
    assert base64.b64decode(image["src"].split(",")[1]).startswith(b"\x89PNG")
    assert image["alt"] == 'The "truth" & a forecast.'


def test_text_is_shown_as_text_and_never_run():
    attack = "<script>alert(1)</script>"
    report = Report(attack, attack, {attack: attack})
    report.number(attack, attack, attack)
    report.section(attack, attack, [(FIGURE, attack + '" onerror="alert(1)')], [{attack: attack}])
    page = Page(report.html())
    assert not page.all("script")
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert page.text.count(attack) >= 9


def test_contents_lead_to_the_sections():
    page = Page(full_report().html())
    links = [a["href"] for a in page.all("a") if a["href"].startswith("#")]
    assert links == [f"#{s['id']}" for s in page.all("section")] == ["#section-1", "#section-2"]


def test_a_doi_becomes_a_link_without_the_full_stop_behind_it():
    links = [a["href"] for a in Page(full_report().html()).all("a")]
    assert "https://doi.org/10.1103/PhysRevLett.126.098302" in links


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.1235"),
        (-1.5e-7, "\N{MINUS SIGN}1.5 \N{MULTIPLICATION SIGN} 10⁻⁷"),
        (1234567, "1\N{NARROW NO-BREAK SPACE}234\N{NARROW NO-BREAK SPACE}567"),
        (np.float32(0.5), "0.5"),
        (np.int64(3), "3"),
        (xr.DataArray(2.5), "2.5"),
        (float("nan"), "\N{EN DASH}"),
        (None, "\N{EN DASH}"),
        (True, "True"),
        ("26 %", "26 %"),
    ],
)
def test_cells_are_written_for_people(value, text):
    report = Report("t", "s")
    report.section("h", "x", table=[{"value": value}])
    assert re.search(r"<td[^>]*>(.*)</td>", report.html()).group(1) == text


def test_numbers_stand_under_each_other():
    page = Page(full_report().html())
    assert [h.get("class") for h in page.all("th")] == [None, "number"]
    assert [c.get("class") for c in page.all("td")] == [None, "number"] * 2


def test_a_figure_may_come_from_a_file(tmp_path):
    FIGURE.savefig(tmp_path / "map.png", dpi=30)
    report = Report("t", "s")
    report.section("h", "x", [(tmp_path / "map.png", "A map."), (str(tmp_path / "map.png"), "Again.")])
    data = {base64.b64decode(i["src"].split(",")[1]) for i in Page(report.html()).all("img")}
    assert data == {(tmp_path / "map.png").read_bytes()}


def test_a_figure_that_fails_leaves_no_page(tmp_path):
    class Broken:
        def savefig(self, *args, **kwargs):
            raise RuntimeError("cannot draw")

    report = Report("t", "s")
    with pytest.raises(RuntimeError, match="cannot draw"):
        report.section("h", "x", [(FIGURE, "Good."), (Broken(), "Bad.")])
    assert Page(report.html()).all("section") == []
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_keeps_the_old_page_and_leaves_nothing_behind(tmp_path, monkeypatch):
    path = Report("old", "s").write(tmp_path / "report.html")
    before = path.read_text()

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        Report("new", "s").write(path)
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_the_page_can_be_read_by_everyone_the_folder_allows(tmp_path):
    path = Report("t", "s").write(tmp_path / "report.html")
    (tmp_path / "plain").write_text("x")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_same_report_is_the_same_page():
    assert full_report().html() == full_report().html()


def add(report: Report, **kwargs) -> None:
    report.section("Maps", "x", **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "kind", "message"),
    [
        ({"figures": [("no.png", "A.")]}, FileNotFoundError, "figure of section 'Maps' is not there.*no.png"),
        ({"figures": [(__file__, "A.")]}, ValueError, "figure of section 'Maps' is no PNG file"),
        ({"figures": [(FIGURE, " ")]}, ValueError, "figure of section 'Maps' has no caption"),
        ({"table": [{"a": 1}, {"b": 2}]}, ValueError, "row 1 of the table in section 'Maps' has other columns"),
    ],
)
def test_what_cannot_be_shown_is_refused(kwargs, kind, message):
    with pytest.raises(kind, match=message):
        add(Report("t", "s"), **kwargs)
