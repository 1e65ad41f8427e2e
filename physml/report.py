"""A page about a run that reads without the code: one HTML file, figures inside, nothing fetched from elsewhere.

>>> page = Report("A tracer in a gyre", "Three networks forecast the same runs.")
>>> page.number("4 %", "of the error", "The transport network errs by 4 % of what the free one does.")
>>> page.section("What was done", "A network learned to step the tracer forward.")
>>> page.write("report.html")  # doctest: +SKIP
"""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Mapping, Sequence
from html import escape
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from physml._errors import describe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
RESOLUTION = 110
"""Resolution of the figures on the page [dots per inch]."""


class Report:
    """The page of a run: a title, a summary, key numbers, and sections of text, figures and tables.

    All text is plain: it is escaped, an empty line begins a paragraph, and ``doi:10...`` becomes a link. Figures are
    drawn when they are added, so they may be closed or changed afterwards.

    Parameters
    ----------
    title
        Heading of the page.
    summary
        What the reader should know after one paragraph.
    provenance
        Facts for the foot of the page, such as from :func:`physml.provenance.record`.
    """

    def __init__(self, title: str, summary: str, provenance: Mapping[str, object] | None = None) -> None:
        self.title = title
        self.summary = summary
        self.provenance = dict(provenance or {})
        self._numbers: list[str] = []
        self._sections: list[tuple[str, str]] = []

    def number(self, value: str | float, label: str, meaning: str) -> None:
        """Add a key number to the top of the page.

        Parameters
        ----------
        value
            The number, with its unit if it is a string; a float is written with three digits.
        label
            What it is, in a few words.
        meaning
            What it means, in one plain sentence.
        """
        self._numbers.append(
            f'<div class="tile"><p class="value">{escape(_text(value, 3))}</p>'
            f'<p class="label">{escape(label)}</p><p>{_inline(meaning)}</p></div>'
        )

    def section(
        self,
        heading: str,
        text: str,
        figures: Sequence[tuple[Figure | str | Path, str]] = (),
        table: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Add a section.

        Parameters
        ----------
        heading
            Heading, also listed in the contents.
        text
            Plain text.
        figures
            Pairs of a figure, or the path of a PNG file, and its caption. The caption is also the figure's text for those
            who cannot see it.
        table
            Rows, each a mapping from column to cell; the columns are those of the first row, in its order.

        Raises
        ------
        FileNotFoundError
            Where the path of a figure does not exist.
        ValueError
            Where that file is no PNG, a figure has no caption, or a row has other columns than the first.
        """
        parts = [_paragraphs(text)]
        parts += [_figure(figure, caption, heading) for figure, caption in figures]
        if table:
            parts.append(_table(table, heading))
        self._sections.append((heading, "\n".join(parts)))

    def html(self) -> str:
        """Return the page."""
        anchors = [f"section-{i}" for i, _ in enumerate(self._sections, 1)]
        contents = "".join(
            f'<li><a href="#{anchor}">{escape(heading)}</a></li>'
            for anchor, (heading, _) in zip(anchors, self._sections, strict=True)
        )
        body = "\n".join(
            f'<section id="{anchor}"><h2>{escape(heading)}</h2>\n{content}</section>'
            for anchor, (heading, content) in zip(anchors, self._sections, strict=True)
        )
        facts = "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in self.provenance.items())
        return _PAGE.format(
            title=escape(self.title),
            style=_STYLE,
            summary=_paragraphs(self.summary),
            numbers=f'<div class="tiles">{"".join(self._numbers)}</div>' if self._numbers else "",
            contents=f'<nav aria-label="Contents"><h2>Contents</h2><ol>{contents}</ol></nav>' if contents else "",
            body=body,
            foot=f"<footer><h2>How this page was made</h2><dl>{facts}</dl></footer>" if facts else "",
        )

    def write(self, path: str | Path) -> Path:
        """Write the page, whole or not at all.

        Parameters
        ----------
        path
            The HTML file; folders are made as needed, an older page is replaced.

        Returns
        -------
        Path
            Where the page is.
        """
        path = Path(path)
        page = self.html()
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            draft.write_text(page, encoding="utf-8")
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        return path


def _paragraphs(text: str) -> str:
    return "\n".join(f"<p>{_inline(p.strip())}</p>" for p in re.split(r"\n\s*\n", text) if p.strip())


def _inline(text: str) -> str:
    """Escape text, and link what it cites."""
    return re.sub(
        r"\bdoi:(10\.\d{4,9}/[^\s&;]*[^\s&;.,)])",
        r'<a href="https://doi.org/\1">doi:\1</a>',
        escape(text),
    )


def _text(value: Any, digits: int = 4) -> str:
    """Return a cell as text: numbers rounded, a missing one as a dash."""
    value = value.item() if getattr(value, "ndim", None) == 0 else value
    if value is None or value != value:
        return "\N{EN DASH}"
    if isinstance(value, bool) or not isinstance(value, Real):
        return str(value)
    if isinstance(value, Integral):
        text = f"{value:_}".replace("_", "\N{NARROW NO-BREAK SPACE}")
    else:
        text = f"{value:.{digits}g}"
    text, _, power = text.partition("e")
    if power:
        text = f"{text} \N{MULTIPLICATION SIGN} 10{str(int(power)).translate(_SUPERSCRIPT)}"
    return text.replace("-", "\N{MINUS SIGN}")


def _is_number(value: Any) -> bool:
    return (isinstance(value, Real) and not isinstance(value, bool)) or getattr(value, "ndim", None) == 0


def _table(rows: Sequence[Mapping[str, Any]], heading: str) -> str:
    columns = list(rows[0])
    for i, row in enumerate(rows):
        if set(row) != set(columns):
            raise ValueError(
                describe(
                    f"row {i} of the table in section {heading!r} has other columns than the first",
                    expected=", ".join(map(str, columns)),
                    received=", ".join(map(str, row)),
                    remedy="give every row the same columns, None where there is no value",
                )
            )
    side = {c: ' class="number"' if any(_is_number(row[c]) for row in rows) else "" for c in columns}
    head = "".join(f'<th scope="col"{side[c]}>{escape(str(c))}</th>' for c in columns)
    body = "".join(
        f"<tr>{''.join(f'<td{side[c]}>{_inline(_text(row[c]))}</td>' for c in columns)}</tr>" for row in rows
    )
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _figure(figure: Figure | str | Path, caption: str, heading: str) -> str:
    if not caption.strip():
        raise ValueError(
            describe(
                f"a figure of section {heading!r} has no caption",
                expected="a sentence that says what is seen",
                received=repr(caption),
                remedy="pass (figure, caption)",
            )
        )
    image = _png(figure, heading)
    width = 0.7 * int.from_bytes(image[16:20], "big")
    kind = ' class="wide"' if width > 800 else ""
    encoded = base64.b64encode(image).decode("ascii")
    return (
        f'<figure{kind}><div><img src="data:image/png;base64,{encoded}" alt="{escape(caption)}" '
        f'style="max-width: {width:.0f}px"></div><figcaption>{_inline(caption)}</figcaption></figure>'
    )


def _png(figure: Figure | str | Path, heading: str) -> bytes:
    if not isinstance(figure, str | Path):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=RESOLUTION, facecolor="white")
        return buffer.getvalue()
    path = Path(figure)
    if not path.is_file():
        raise FileNotFoundError(
            describe(
                f"a figure of section {heading!r} is not there",
                expected="the path of a PNG file",
                received=path,
                remedy="write the figure first, or pass the figure itself",
            )
        )
    data = path.read_bytes()
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError(
            describe(
                f"a figure of section {heading!r} is no PNG file",
                expected="PNG",
                received=path,
                remedy="save it as PNG, or pass the figure itself",
            )
        )
    return data


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<header><h1>{title}</h1>
<div class="summary">{summary}</div></header>
{numbers}
{contents}
{body}
{foot}
</main>
</body>
</html>
"""

_STYLE = """
:root { --paper: #ffffff; --ink: #1d2329; --faint: #5a6570; --line: #d9dee3; --tile: #f3f6f8; --link: #0b5cad; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181c; --ink: #e6eaee; --faint: #a3adb7; --line: #343c44; --tile: #1e252b; --link: #7db8f2; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 1.0625rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 2.1rem; line-height: 1.2; margin: 0 0 1rem; text-wrap: balance; }
h2 { font-size: 1.45rem; line-height: 1.3; margin: 0 0 .75rem; }
p { margin: 0 0 1em; max-width: 44rem; overflow-wrap: break-word; }
a { color: var(--link); }
.summary { font-size: 1.2rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(13.5rem, 1fr)); gap: 1rem; margin: 1.75rem 0; }
.tile { background: var(--tile); border: 1px solid var(--line); border-radius: .6rem; padding: 1rem 1.1rem; }
.tile p { margin: 0; font-size: .95rem; color: var(--faint); }
.tile .value { font-size: 1.9rem; line-height: 1.2; font-weight: 650; color: var(--ink); }
.tile .label { font-weight: 600; color: var(--ink); margin-bottom: .35rem; }
nav { border-left: 4px solid var(--line); padding: .1rem 0 .1rem 1.1rem; margin: 2rem 0; }
nav h2 { font-size: 1rem; margin: 0; color: var(--faint); }
nav ol { margin: .25rem 0 0; padding-left: 1.3rem; }
section { border-top: 1px solid var(--line); padding-top: 1.75rem; margin-top: 2.25rem; }
figure { margin: 1.5rem 0; }
figure img { display: block; width: 100%; height: auto; background: #ffffff; border: 1px solid var(--line); border-radius: .4rem; }
figcaption { color: var(--faint); font-size: .95rem; margin-top: .5rem; max-width: 46rem; }
.table { overflow-x: auto; margin: 1.5rem 0; }
table { border-collapse: collapse; font-size: 1rem; }
th, td { padding: .45rem 1.1rem .45rem 0; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
th { color: var(--faint); font-weight: 600; white-space: normal; vertical-align: bottom; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
footer { border-top: 1px solid var(--line); margin-top: 3rem; padding-top: 1.25rem; color: var(--faint); font-size: .9rem; }
footer h2 { font-size: 1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; margin: 0; }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  main { padding: 1.25rem .9rem 3rem; } figure div { overflow-x: auto; } .wide img { width: 48rem; }
  h1 { font-size: 1.6rem; } .summary { font-size: 1.05rem; }
  dl { grid-template-columns: 1fr; } dt { font-weight: 600; }
}
@media print {
  :root { --paper: #ffffff; --ink: #000000; --faint: #444444; --line: #cccccc; --tile: #ffffff; --link: #000000; }
  main { max-width: none; padding: 0; } nav { display: none; }
  figure, .tile, tr { break-inside: avoid; } h2 { break-after: avoid; }
}
"""
