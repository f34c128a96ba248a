"""A matplotlib figure as SVG inside an HTML page, in the colours of the page's light or dark theme."""

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Mapping

import matplotlib as mpl
from matplotlib.figure import Figure

COLOUR = re.compile(r"#[0-9a-f]{6}")
FONT_FAMILY = re.compile(r"font-family: [^;]*;? ?")
LONG_DECIMALS = re.compile(r"(\d\.\d\d)\d+")
HREF = "{http://www.w3.org/1999/xlink}href"


def png(figure: Figure) -> bytes:
    """Draw the figure as PNG in the light theme, 200 pixels an inch."""
    return _rendered(figure, "png", dpi=200)


def inline_svg(figure: Figure, name: str, label: str, theme: Mapping[str, str]) -> str:
    """Draw the figure as an `<svg>` element for an HTML page.

    `name` makes its ids unique in the page, `label` says what it shows to those who do not see it, and `theme` maps
    each colour the figure was drawn in (`#rrggbb`) to the CSS value that takes its place. Text stays text, in the font
    of the page.
    """
    root = ET.fromstring(_rendered(figure, "svg"))
    used = {match for element in root.iter() for match in _references(element)}
    for parent in root.iter():
        for child in [child for child in parent if child.tag.endswith(("metadata", "style"))]:
            parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.partition("}")[2]
        element.tail = None
        if element.tag != "text":
            element.text = None
        if element.attrib.get("id") not in used:
            element.attrib.pop("id", None)
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            element.attrib[key.partition("}")[2] or key] = _page_value(key, value, name, theme)
    box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update({"viewBox": box, "role": "img", "aria-label": label})
    return ET.tostring(root, encoding="unicode")


def _rendered(figure: Figure, kind: str, **options: float) -> bytes:
    buffer = io.BytesIO()
    # the salt makes ids, hence the whole page, the same each time
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "thaw"}), warnings.catch_warnings():
        # a class name in a script that matplotlib's font lacks: the browser has it
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(buffer, format=kind, transparent=kind == "svg", metadata=metadata, **options)
    return buffer.getvalue()


def _references(element: ET.Element) -> list[str]:
    href = element.attrib.get(HREF, "").removeprefix("#")
    return [href, *re.findall(r"url\(#([^)]+)\)", " ".join(element.attrib.values()))]


def _page_value(key: str, value: str, name: str, theme: Mapping[str, str]) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == HREF:
        return f"#{name}-{value[1:]}"
    value = LONG_DECIMALS.sub(r"\1", value.replace("url(#", f"url(#{name}-"))
    if key == "style":
        value = COLOUR.sub(lambda colour: theme.get(colour[0], colour[0]), FONT_FAMILY.sub("", value))
    return value
