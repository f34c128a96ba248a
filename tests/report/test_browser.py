"""The page in Chromium: sort, copy, filter, search, link, by mouse and keyboard; nothing leaves it."""

import json
import re
import shutil
from itertools import cycle, islice
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from markdown_it import MarkdownIt

from helpers.accessibility import broken_rules
from helpers.synthetic_run import SEVEN, TWO, make_run
from thaw.report import page as page_module
from thaw.report.page import write_report

pytestmark = pytest.mark.browser

HOSTILE = "</script><script>document.title='owned'</script>\"'><img src=x onerror=alert(1)>"
NAMES = (r"a|b_c*d* `e` <b>&amp;", "[x](http://y) \\frac{1}{2}$z$ #1 ~5%^")
LONG = "unbroken" * 30
ARMS = ("scratch", "head", "everything")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        yield started
        started.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = make_run(tmp_path_factory.mktemp("run"), images=160, arms=ARMS, errors=True)
    write_report(made)
    return made


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Class names full of markup, and HOSTILE in every other name."""
    made = make_run(tmp_path_factory.mktemp("hostile"), NAMES, images=90, arms=("head",), text=HOSTILE, errors=True)
    write_report(made)
    return made


@pytest.fixture
def open_page(browser):
    """Open a run's report in a window of its own; every request, and every error, is kept in `page.seen`."""
    contexts = []

    def opened(run, fragment="", **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.seen = []
        page.on("request", lambda request: page.seen.append(request.url))
        page.on("pageerror", lambda error: page.seen.append(f"error: {error}"))
        page.on("console", lambda message: page.seen.append(f"console: {message.text}"))
        page.goto((run / "report.html").as_uri() + fragment)
        return page

    yield opened
    for context in contexts:
        context.close()


def rows(run, arm, wrong=None):
    """What an arm says of the test images, by id: (label, predicted, probability)."""
    found = {}
    for row in pq.read_table(run / "predictions.parquet").to_pylist():
        if row["arm"] == arm and wrong in (None, row["predicted"] != row["label"]):
            found[row["id"]] = row["label"], row["predicted"], row[f"p_{row['predicted']}"]
    return found


def shown(page):
    """The file names of the cards, in order."""
    return page.locator(".cards .compare > small").all_text_contents()


def unfold(page):
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")


def column(page, table, number):
    return page.locator(f"{table} tbody tr > :nth-child({number})").all_inner_texts()


def copied(page, table, kind):
    """What the button that copies a table as `kind` puts on the clipboard."""
    page.evaluate("() => { navigator.clipboard.writeText = async (text) => { window.copied = text; }; }")
    page.locator(f"#{table}").get_by_role("button", name=f"Copy as {kind}").click()
    page.get_by_text(f"Copied as {kind}.").wait_for()
    return page.evaluate("window.copied")


def test_tables_sort_by_click_and_by_keyboard(open_page, run):
    page = open_page(run)
    arms = json.loads((run / "metrics.json").read_text())["arms"]
    header = page.locator("#tab-scores thead th").nth(1)
    sort = header.get_by_role("button")
    by_accuracy = sorted(ARMS, key=lambda arm: arms[arm]["test"]["accuracy"])

    sort.click()
    assert header.get_attribute("aria-sort") == "descending"
    assert [name.split()[0] for name in column(page, "#tab-scores", 1)] == by_accuracy[::-1]
    sort.focus()
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    assert [name.split()[0] for name in column(page, "#tab-scores", 1)] == by_accuracy

    # 57.0 M is more than 8,194, whatever the letters say
    page.locator("#tab-scores thead button").nth(6).click()
    assert column(page, "#tab-scores", 7)[-1].startswith("8,194")
    assert header.get_attribute("aria-sort") is None
    page.locator("#tab-scores thead button").first.click()
    assert [name.split()[0] for name in column(page, "#tab-scores", 1)] == sorted(ARMS)


def test_gallery_starts_with_the_surest_mistakes_of_the_recommended_arm(open_page, run):
    page = open_page(run)
    arm = json.loads((run / "metrics.json").read_text())["recommended"]
    wrong = rows(run, arm, wrong=True)
    expected = sorted(wrong, key=lambda name: -round(wrong[name][2], 4))
    assert page.locator("[name=arm]").input_value() == arm
    assert [round(wrong[name][2], 4) for name in shown(page)] == [round(wrong[name][2], 4) for name in expected[:21]]
    assert page.locator("#gallery-count").text_content() == f"{len(wrong)} of 160 test images, the surest first."


def test_gallery_filters(open_page, run):
    page = open_page(run)
    says = {arm: rows(run, arm) for arm in ARMS}
    right = {arm: {name for name, (label, said, _) in says[arm].items() if label == said} for arm in ARMS}
    everything = set(says["head"])
    errors = {row["id"] for row in pq.read_table(run / "label_errors.parquet").to_pylist()}
    sliced = {row["id"]: row["slice:eyeglasses"] for row in pq.read_table(run / "gallery.parquet").to_pylist()}

    def chosen(**values):
        page.locator(".filters button[type=reset]").click()
        for name, value in values.items():
            page.select_option(f"[name={name}]", label=value)
        while page.locator("#gallery-more").is_visible():
            page.click("#gallery-more")
        return set(shown(page))

    assert chosen(arm="scratch", kind="mistakes") == everything - right["scratch"]
    assert chosen(arm="scratch", kind="right") == right["scratch"]
    sure = {name for name in everything - right["scratch"] if says["scratch"][name][2] >= 0.9}
    assert chosen(arm="scratch", kind="mistakes, 90% sure") == sure
    assert chosen(arm="head", kind="only this arm right") == right["head"] - right["scratch"] - right["everything"]
    alone = (right["scratch"] & right["everything"]) - right["head"]
    assert chosen(arm="head", kind="only this arm wrong") == alone
    assert chosen(kind="label errors") == errors
    males = {name for name, (label, _, _) in says["head"].items() if label == "male"}
    assert chosen(kind="every image", label="male") == males
    said = {name for name, (_, predicted, _) in says["scratch"].items() if predicted == "male"}
    assert chosen(arm="scratch", kind="every image", predicted="male") == said
    glasses = {name for name, value in sliced.items() if value == "yes"}
    assert chosen(kind="every image", slice="eyeglasses: yes") == glasses
    assert chosen(arm="head", kind="least sure") == everything
    by_doubt = [says["head"][name][2] for name in shown(page)]
    assert by_doubt == sorted(by_doubt, key=lambda share: round(share, 4))


def test_gallery_search_and_more(open_page, run):
    page = open_page(run)
    page.select_option("[name=kind]", "all")
    assert len(shown(page)) == 21
    page.locator("#gallery-more").focus()
    page.keyboard.press("Enter")
    assert len(shown(page)) == 42
    assert page.evaluate("document.activeElement.getAttribute('href')").startswith("#img-")
    page.fill("[name=search]", "/15")  # 11 images
    assert set(shown(page)) == {f"validation/{number}.jpg" for number in (15, *range(150, 160))}
    page.fill("[name=search]", "no such file")
    assert page.locator("#gallery-count").text_content().startswith("0 of 160")


def test_gallery_compares_arms_on_focus(open_page, run):
    page = open_page(run)
    card = page.locator(".cards a").first
    compare = page.locator(".cards .compare").first
    assert not compare.is_visible()
    # by keyboard: focus alone must do
    page.locator(".filters button[type=reset]").focus()
    page.keyboard.press("Tab")
    assert compare.is_visible()
    assert card.get_attribute("aria-describedby") == compare.get_attribute("id")
    name = shown(page)[0]
    for arm in ARMS:
        _, predicted, share = rows(run, arm)[name]
        assert f"{arm} {predicted} {100 * share:.1f}%" in re.sub(r"[✓✗\s]+", " ", compare.inner_text())


def test_heat_map_lies_over_the_picture_and_goes_away(open_page, run):
    page = open_page(run)
    assert page.locator(".cards canvas").count() == 0
    page.check("[name=heat]")
    name = shown(page)[0]
    arm = page.locator("[name=arm]").input_value()
    maps = {row["id"]: row[f"heat:{arm}"] for row in pq.read_table(run / "gallery.parquet").to_pylist()}
    canvas = page.locator(".cards li").first.locator("canvas")
    assert canvas.bounding_box() == page.locator(".cards li").first.locator("img").bounding_box()
    drawn = canvas.evaluate("canvas => [...canvas.getContext('2d').getImageData(0, 0, 14, 14).data]")[3::4]
    assert [value == 0 for value in drawn] == [value == 0 for value in maps[name]]
    assert max(range(196), key=drawn.__getitem__) == max(range(196), key=maps[name].__getitem__)
    page.uncheck("[name=heat]")
    assert page.locator(".cards canvas").count() == 0


def test_mistakes_and_label_errors_stand_beside_their_heat_maps(open_page, run):
    page = open_page(run)
    unfold(page)
    for part in page.locator(".mistakes").all():
        pairs = part.locator(".looked")
        assert pairs.count() == pairs.locator("canvas").count() > 0
        first, second = (one.bounding_box() for one in pairs.first.locator(".picture").all())
        assert first["y"] == second["y"]
        assert first["x"] + first["width"] <= second["x"]
        assert pairs.first.locator("canvas").bounding_box() == second


def test_a_picture_has_an_address(open_page, run):
    name = shown(open_page(run))[3]
    page = open_page(run, f"#img-{quote(name, safe='')}")
    dialog = page.locator("dialog")
    assert dialog.get_by_role("heading").inner_text() == name
    assert dialog.locator("figcaption b").all_inner_texts() == ["the image", *ARMS]
    page.keyboard.press("ArrowRight")
    following = dialog.get_by_role("heading").inner_text()
    assert following != name
    assert page.url.endswith(f"#img-{quote(following, safe='')}")
    dialog.get_by_role("button", name="Previous picture").click()
    assert dialog.get_by_role("heading").inner_text() == name
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert page.url.endswith("#gallery")
    # the card that it was opened from has the focus again
    assert page.evaluate("decodeURIComponent(document.activeElement.hash)") == f"#img-{name}"
    page.keyboard.press("Enter")
    dialog.wait_for()


def test_figures_and_hidden_tables_have_addresses(open_page, run):
    page = open_page(run, "#fig-cost-seconds")
    assert 0 <= page.locator("#fig-cost-seconds").bounding_box()["y"] < 900
    page = open_page(run, "#tab-modules")
    assert page.locator("#tab-modules").is_visible()
    names = page.locator("figure[id^=fig-], .table[id^=tab-]").evaluate_all("all => all.map(one => one.id)")
    links = page.locator(".ref").evaluate_all("all => all.map(one => one.getAttribute('href').slice(1))")
    assert names == links
    assert len(set(names)) == len(names) > 15


def test_a_link_opens_every_part_around_its_target(open_page, run):
    page = open_page(run, "#tab-classes-scratch")
    assert page.locator("#tab-classes-scratch").is_visible()
    assert not page.locator("#tab-modules").is_visible()


def test_printing_opens_all_and_leaves_the_page_as_it_was(open_page, run):
    page = open_page(run)
    closed = page.locator("details:not([open])")
    before = closed.count()
    assert before > 5
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert closed.count() == 0
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert closed.count() == before


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (375, 812)])
def test_the_first_screen_says_which_how_sure_what_it_costs_and_what_to_distrust(open_page, run, width, height):
    page = open_page(run, viewport={"width": width, "height": height})
    for part in (".verdict", ".facts", ".trust h2", ".trust li >> nth=0"):
        box = page.locator(part).bounding_box()
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= height
    figure = page.locator("header figure").first.bounding_box()
    assert width == 375 or figure["y"] + figure["height"] <= height


def test_the_contents_stay_in_view(open_page, run):
    for width in (375, 1280):
        page = open_page(run, viewport={"width": width, "height": 800})
        page.evaluate("window.scrollTo(0, 4000)")
        assert 0 <= page.locator("nav").bounding_box()["y"] < 100


def test_markdown_keeps_hostile_names_as_text(open_page, hostile):
    text = copied(open_page(hostile, "#tab-classes"), "tab-classes", "Markdown")
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    cells = [token for token in tokens if token.type == "inline"]
    assert all({child.type for child in cell.children} <= {"text", "text_special"} for cell in cells)
    table = ["".join(child.content for child in cell.children) for cell in cells]
    assert table[:4] == ["Class", "Train", "Validation", "Test"]
    assert [table[4], table[8]] == list(NAMES)
    skipped = (
        MarkdownIt("commonmark", {"html": True})
        .enable("table")
        .parse(copied(open_page(hostile, "#tab-skipped"), "tab-skipped", "Markdown"))
    )
    inline = [token for token in skipped if token.type == "inline"]
    assert "".join(child.content for child in inline[2].children) == f"train/0.jpg{HOSTILE}"


def read_latex(text):
    """The text that LaTeX would set; fails on any active character that is not escaped."""
    words = {
        "textbackslash{}": "\\",
        "textasciitilde{}": "~",
        "textasciicircum{}": "^",
        "textless{}": "<",
        "textgreater{}": ">",
        "textbar{}": "|",
        "textquotedbl{}": '"',
        "textasciigrave{}": "`",
        **{mark: mark for mark in "{}$&#_%"},
    }
    pattern = re.compile("|".join([rf"\\{re.escape(word)}" for word in words] + [r"[^\\{}$&#_%~^<>|\"`]"]))
    pieces, place = [], 0
    while place < len(text):
        match = pattern.match(text, place)
        assert match, f"{text[place:]!r} is not plain text to LaTeX"
        pieces.append(words.get(match[0][1:], match[0]) if match[0].startswith("\\") else match[0])
        place = match.end()
    return "".join(pieces)


def test_latex_keeps_hostile_names_as_text(open_page, hostile):
    lines = copied(open_page(hostile, "#tab-classes"), "tab-classes", "LaTeX").splitlines()
    start = lines.index("\\toprule")
    assert lines[start - 1] == "\\begin{tabular}{lrrr}"
    body = [line.removesuffix(" \\\\").split(" & ") for line in lines[start + 3 : lines.index("\\bottomrule")]]
    # a bracket at the start of a row would be taken for the argument of \\
    assert [read_latex(cells[0].removeprefix("{}")) for cells in body] == [*NAMES, "All"]
    assert body[1][0].startswith("{}[")
    assert all(cell.replace(",", "").isdigit() for cells in body for cell in cells[1:])


def test_a_table_is_shown_where_there_is_no_clipboard(open_page, run):
    page = open_page(run, "#tab-classes")
    page.evaluate("() => { navigator.clipboard.writeText = async () => { throw new Error('no'); }; }")
    page.locator("#tab-classes").get_by_role("button", name="Copy as Markdown").click()
    assert page.locator("#tab-classes textarea").input_value().startswith("| Class | Train |")


def test_hostile_names_do_nothing(open_page, hostile):
    page = open_page(hostile)
    assert page.title().startswith("celeba-hq-gender</script>")
    page.select_option("[name=kind]", "all")
    page.locator(".cards a").first.click()
    page.locator("dialog").wait_for()
    assert page.locator("dialog h3").inner_text().endswith(HOSTILE)
    assert HOSTILE in page.locator("#picture-facts").inner_text()
    assert page.locator("img[src=x]").count() == 0
    assert not [one for one in page.seen if not one.startswith(("file:", "data:"))]


def test_no_request_leaves_the_page(open_page, run):
    page = open_page(run)
    page.check("[name=heat]")
    page.locator(".cards a").first.click()
    page.locator("dialog").wait_for()
    page.keyboard.press("Escape")
    page.locator("#tab-scores thead button").first.click()
    assert page.seen[0].endswith("report.html")
    assert all(one.startswith("data:image/") for one in page.seen[1:])
    # and none could: the policy forbids it
    for attempt in (
        "fetch('https://example.org/').then(() => false, () => true)",
        "new Promise(done => { const image = new Image(); image.onerror = () => done(true);"
        " image.onload = () => done(false); image.src = 'https://example.org/x.png'; })",
        "new Promise(done => { document.addEventListener('securitypolicyviolation', () => done(true));"
        " const script = document.createElement('script'); script.textContent = 'window.owned = 1';"
        " document.body.append(script); })",
    ):
        assert page.evaluate(attempt)
    assert page.evaluate("window.owned") is None


def test_everything_that_can_be_used_or_seen_has_a_name(open_page, run):
    page = open_page(run)
    page.locator(".cards a").first.click()
    page.locator("dialog").wait_for()
    dialog = page.locator("dialog").aria_snapshot()
    page.keyboard.press("Escape")
    unfold(page)
    named = r"- (button|link|img|table|region|combobox|searchbox|checkbox|heading|dialog)\b(?! \")"
    assert re.findall(named, page.locator("body").aria_snapshot() + dialog) == []
    assert len(re.findall("- button", dialog)) == 3


def test_the_page_reads_without_its_script(open_page, run):
    page = open_page(run, java_script_enabled=False)
    assert page.locator("noscript").is_visible()
    assert page.locator("#mistakes").is_visible()
    assert not page.locator(".filters").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_rule_of_accessibility_is_broken_in_light_and_dark(open_page, run, scheme):
    page = open_page(run, color_scheme=scheme)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}[scheme]
    unfold(page)
    assert broken_rules(page) == []
    page.locator(".cards a").first.click()
    page.locator("dialog").wait_for()
    assert broken_rules(page) == []


@pytest.mark.parametrize("names", [TWO, (LONG, *SEVEN[1:])], ids=["two", "seven-long"])
def test_page_fits_the_window(open_page, tmp_path, names):
    run = make_run(tmp_path, names, (0, 1), images=70, text=LONG, arms=("head", "everything"), errors=True)
    write_report(run)
    for width in (375, 768, 1280):
        page = open_page(run, viewport={"width": width, "height": 900})
        unfold(page)
        cards = page.locator(".cards a")
        for place in range(min(4, cards.count())):
            cards.nth(place).hover()
            assert page.evaluate("document.documentElement.scrollWidth") == width
        cards.first.click()
        page.locator("dialog").wait_for()
        assert page.locator("dialog").evaluate("one => one.scrollWidth <= one.clientWidth")


def test_two_thousand_images_stay_under_ten_megabytes_and_open_in_two_seconds(open_page, run, tmp_path, monkeypatch):
    many = tmp_path / "many"
    shutil.copytree(run, many)
    for name in ("gallery.parquet", "predictions.parquet"):
        table = pq.read_table(many / name).to_pylist()
        of_arms = [table] if name.startswith("gallery") else [[r for r in table if r["arm"] == arm] for arm in ARMS]
        rows = [
            {**row, "id": f"{place}/{row['id']}"}
            for of_arm in of_arms
            for place, row in enumerate(islice(cycle(of_arm), 2000))
        ]
        pq.write_table(pa.Table.from_pylist(rows), many / name)
    # the figures, drawn for `run`, are in its page; drawing them again says nothing of size or speed
    figures = dict(zip(names_of_figures(run), re.findall(r"<svg.*?</svg>", source(run), re.DOTALL), strict=True))
    monkeypatch.setattr(page_module, "write_figures", lambda *_: {k: page_module.Markup(v) for k, v in figures.items()})
    assert write_report(many).stat().st_size < 10e6
    seconds = []
    for _ in range(3):
        page = open_page(many)
        page.locator(".cards a").first.wait_for()
        seconds.append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd / 1000"))
        assert page.locator("#gallery-count").text_content().partition(" of ")[2].startswith("2,000 test images")
    assert min(seconds) < 2


def source(run):
    return (run / "report.html").read_text(encoding="utf-8")


def names_of_figures(run):
    return re.findall(r'<figure id="fig-([^"]+)"', source(run))
