"""The page holds what the run holds, safely, in one file."""

import base64
import hashlib
import json
import re
from collections import defaultdict
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from helpers.synthetic_run import SEVEN, make_run, write_json
from thaw.errors import StorageError
from thaw.images.preprocessing import Preprocessing, covered
from thaw.report.page import write_report
from thaw.scoring.statistics import wilson
from thaw.text import SPACE, about

HOSTILE = "</pre></script><script>document.title='owned'</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}"


class Page(HTMLParser):
    """Every element with its attributes, and the text of the whole."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = re.sub(r"\s+", " ", "".join(self.pieces).replace(SPACE, " "))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("td", "th", "small"):
            self.pieces.append(" ")

    def handle_data(self, data):
        self.pieces.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "two", images=200)


@pytest.fixture
def no_figures(monkeypatch):
    """Draws none, for tests of what else the page says."""
    monkeypatch.setattr("thaw.report.page.write_figures", lambda *_: defaultdict(str))


@pytest.fixture(scope="module")
def metrics(run):
    return json.loads((run / "metrics.json").read_text())


@pytest.fixture(scope="module")
def page(run):
    return Page(write_report(run))


def test_sections_come_in_order(page):
    assert [attributes["id"] for attributes in page.all("section")] == [
        *("results", "errors", "data", "method", "limits", "again"),
    ]
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    linked = {link["href"].removeprefix("#") for link in page.all("a")}
    assert linked <= ids
    assert linked >= {attributes["id"] for attributes in page.all("section")}


def test_verdict_names_the_recommended_arm(page, metrics):
    accuracy = metrics["arms"][metrics["recommended"]]["test"]["accuracy"]
    expected = metrics["verdict"]["expected"]
    headline = f"right on {100 * accuracy:.1f}% of 200 test images; on new images expect about {100 * expected:.1f}%."
    assert f"Use {metrics['recommended']}: {headline}" in page.text
    assert "One seed: this is about these models, not about these ways of training." in page.text


def test_table_has_the_numbers_of_metrics_json(page, metrics):
    for arm, found in metrics["arms"].items():
        tag = " best" if arm == metrics["best"] else " use this" if arm == metrics["recommended"] else ""
        cells = [
            f"{found['test'][score]:.4f} {found['intervals'][score][0]:.3f}–{found['intervals'][score][1]:.3f}"
            for score in ("accuracy", "precision", "recall", "f1")
        ]
        cells.append({1e-4: "1e-4", 1e-3: "1e-3"}[found["learning_rate"]])
        assert f" {arm}{tag} {' '.join(cells)} " in page.text
    titles = {cell["title"] for cell in page.all("td") if "title" in cell}
    assert "16,789,506 of 57,012,034" in titles


def test_every_pair_is_told_apart_or_has_its_number_of_images(page, metrics):
    assert "Can the data tell them apart?" in page.text
    assert "p of the exact McNemar test, corrected by Holm’s method for 6 pairs" in page.text
    assert len(metrics["comparisons"]) == 6
    for it in metrics["comparisons"]:
        ahead, over = it["arms"] if it["difference"] >= 0 else reversed(it["arms"])
        told = "yes" if it["p_holm"] < 0.05 else f"no; about {about(it['images_needed'])} test images would"
        row = rf" {ahead} (over|and) {over} {100 * abs(it['difference']):.1f} \S+ to \S+ (0\.\d+|1|< 0\.0001) {told}"
        assert re.search(row, page.text)


def test_groups_are_told(tmp_path, no_figures):
    run = make_run(tmp_path, group="person", images=200)
    assert {it["test"] for it in json.loads((run / "metrics.json").read_text())["comparisons"]} == {"group permutation"}
    text = Page(write_report(run)).text
    for told in (
        "Images that share a value of person are counted as alike as they turned out",
        "else by resampling whole groups of person",
        "the exact permutation test that flips the sign of the lead in each group",
        "Whole groups of person count as one",
    ):
        assert told in text


def test_tables_have_captions_and_scroll_by_keyboard(page):
    assert len(page.all("table")) == len(page.all("caption"))
    regions = [attributes for attributes in page.all("div") if attributes.get("class") == "scroll"]
    assert len(regions) == len(page.all("table"))
    assert all(region["tabindex"] == "0" and region["aria-label"] for region in regions)


def test_every_picture_says_what_it_shows(page, metrics):
    assert all(image["alt"] for image in page.all("img"))
    figures = page.all("svg")
    assert len(figures) == 10 + 2 * len(metrics["arms"])
    assert all(figure["aria-label"] and figure["role"] == "img" for figure in figures)


def test_headings_do_not_skip_a_level(page):
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_ids_are_unique(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_page_loads_nothing(page):
    loaded = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "poster")
    ]
    assert all(value.startswith(("data:image/", "#")) for value in loaded)
    assert not page.all("link")
    assert "@import" not in page.source
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page.source))
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    (script,) = re.findall(r"<script>(.*?)</script>", page.source, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"script-src 'sha256-{digest}'; style-src 'unsafe-inline'"
    )


def test_mistakes_are_the_most_confident_ones_of_the_best_arm(page, run, metrics):
    rows = [
        row
        for row in pq.read_table(run / "predictions.parquet").to_pylist()
        if row["arm"] == metrics["best"] and row["predicted"] != row["label"]
    ]
    worst = sorted(((row["p_" + row["predicted"]], row["label"], row["id"]) for row in rows), reverse=True)[:5]
    assert len(worst) == 5
    shown = [f"{100 * confidence:.1f}% sure labelled {label} {name}" for confidence, label, name in worst]
    places = [page.text.index(text) for text in shown]
    assert places == sorted(places)
    assert page.text.count("% sure labelled") == 5


def test_data_method_and_rerun_are_told(page, metrics):
    for text in (
        *metrics["data"]["how"].values(),
        metrics["command"],
        metrics["data"]["fingerprint"],
        "2 images left out",
        "train/1.jpg not an image",
        "Both sides of each image are brought to 224 pixels",
        "What comes before flatten cannot change while it trains",
        "36 KiB an image",
        "spares 91.2% of the arithmetic",
        "Being picked as the best of 4 on these images flatters everything by about",
        "3 studies on this machine, this one included, have looked at these test images.",
        "learning_rates = [1e-05, 0.0001, 0.001]",
        "AMD EPYC 9B14, 2 cores",
        "torch 2.9.1",
    ):
        assert text in page.text


@pytest.mark.parametrize(("size", "crop"), [(224, 224 / 232), (299, 0.875), (256, 0.95), (64, 1.0), (224, 1.0001)])
def test_the_side_that_pictures_are_brought_to_is_told(tmp_path, no_figures, size, crop):
    run = make_run(tmp_path, images=40, arms=("head",))
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["images"] |= {"size": size, "resize": "crop", "crop": crop}
    write_json(run / "metrics.json", metrics)
    shorter, _ = covered(Preprocessing(size, "crop", "bilinear", crop, (0.5,) * 3, (0.5,) * 3))
    told = f"is brought to {shorter} pixels and the middle {size} by {size} cut out"
    assert told in Page(write_report(run)).text


def test_a_rectangle_and_padding_are_told_and_shown_in_their_shape(tmp_path, no_figures):
    run = make_run(tmp_path, images=40, arms=("head",))
    metrics = json.loads((run / "metrics.json").read_text())
    for resize, told in {
        "letterbox": "just fits inside 48 by 64 pixels (height by width), its aspect ratio kept, and padded evenly",
        "crop": "just covers 54 by 73 pixels (height by width) and the middle 48 by 64 cut out",
        "squash": "is brought to 48 by 64 pixels (height by width), its aspect ratio not kept",
    }.items():
        metrics["images"] |= {"size": [48, 64], "resize": resize, "crop": 0.875}
        write_json(run / "metrics.json", metrics)
        page = write_report(run)
        assert told in Page(page).text
        assert '<body style="--shape: 64 / 48">' in page.read_text()


def test_figures_are_written_as_png(page, run, metrics):
    names = {
        *("accuracy-on-test", "thawed"),
        "cost-seconds",
        "cost-parameters",
        "loss",
        "accuracy",
        "search",
        "classes",
        "roc",
        "precision-recall",
        *(f"{kind}-{arm}" for kind in ("confusion", "reliability") for arm in metrics["arms"]),
    }
    assert {path.stem for path in (run / "figures").iterdir()} == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (run / "figures").iterdir())


def test_writing_again_gives_the_same_page(page, run):
    write_report(run)
    assert (run / "report.html").read_text(encoding="utf-8") == page.source
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


def test_several_seeds_and_classes(tmp_path):
    run = make_run(tmp_path, SEVEN, (0, 1, 2), epochs=2, images=140, refit="train", skipped=0)
    page = Page(write_report(run))
    assert "Mean ± standard deviation over 3 seeds" in page.text
    assert "Dashed: the validation images" in page.text
    assert "p of Student’s t over images and seeds" in page.text
    assert "Mean of 3 seeds; images and seeds both count." in page.text
    assert "No image was left out." in page.text
    assert re.search(r"last-two-fc (best|use this) (0\.\d{4} ± 0\.\d{4} 0\.\d{3}–0\.\d{3} ){4}", page.text)
    assert re.search(r"last-two-fc (0\.\d{4} ± 0\.\d{4} 0\.\d{3}–0\.\d{3} ){6}", page.text)
    assert "always anger 0." in page.text
    assert "by class frequency 0." in page.text
    assert "ROC curve" not in page.text
    assert all(f"{name} " in page.text for name in SEVEN)


def test_many_classes_are_listed_worst_first_without_a_matrix(tmp_path):
    names = tuple(f"class {code:03d}" for code in range(120))
    run = make_run(tmp_path, names, images=400, arms=("head", "everything"))
    metrics = json.loads((run / "metrics.json").read_text())
    page = Page(write_report(run))
    assert not list((run / "figures").glob("confusion-*"))
    chosen = metrics["recommended"]
    other = next(arm for arm in metrics["arms"] if arm != chosen)
    for arm, listed in ((chosen, 120), (other, 100)):
        table = page.source.split(f'id="tab-classes-{arm}"')[1].split("</table>")[0]
        f1 = [float(re.findall(r'data-sort="([\d.]+)"', row)[2]) for row in table.split("<tr>")[2:]]
        assert len(f1) == listed
        assert f1 == sorted(f1)
    assert "20 better classes are in metrics.json" in page.text
    assert "the pairs of classes it confuses most often" in page.text


def test_a_halving_early_stops_and_adapters(tmp_path):
    run = make_run(tmp_path, seeds=(0, 1), images=80, arms=("head", "everything"), refit="train")
    metrics = json.loads((run / "metrics.json").read_text())
    for arm, rate in (("head", 0.25), ("everything", 1e-5)):
        search = [
            {"learning_rate": rate, "steps": steps, "accuracy": 0.8 + steps / 1000, "loss": 0.4} for steps in (15, 30)
        ]
        search.append({"learning_rate": 100.0, "steps": 15, "accuracy": 0.0, "loss": None, "failed": "it diverged"})
        for one in (metrics["arms"][arm], *metrics["arms"][arm]["trials"]):
            one |= {"learning_rate": rate, "search": search}
    metrics["arms"]["head"]["trials"][1]["epochs"].pop()
    metrics["arms"]["head"] |= {"train": "lora"}
    write_json(run / "metrics.json", metrics)
    modules = json.loads((run / "modules.json").read_text())
    modules["head"].append({"module": "classifier.4.lora_A", "kind": "Linear", "parameters": 8, "trained": True})
    write_json(run / "modules.json", modules)
    recipe = (
        (run / "recipe.toml")
        .read_text()
        .replace("[search]\n", '[search]\nmethod = "halving"\ncandidates = 8\nrange = [1e-05, 0.1]\n')
    )
    (run / "recipe.toml").write_text(recipe.replace("[train]\n", "[train]\npatience = 2\nweight_decay = 0.01\n"))
    text = Page(write_report(run)).text
    for told in (
        "8 learning rates from 1e-5 to 1e-1 are tried for 15 steps",
        "trains for up to 3 epochs on train with Adam and weight decay 0.01",
        "It stops when 2 epochs in a row bring nothing better",
        "low-rank adapters (LoRA) on linear layers, 1 x 1 convolutions and attention",
        "head 2.5e-1 30 0.8300",
        "everything 1e2 15 failed",
        "classifier.4.lora_A Linear 8 trained –",
    ):
        assert told in text


def test_errors_and_audit_are_told(tmp_path, no_figures):
    page = Page(write_report(make_run(tmp_path, images=300, arms=("head", "everything"), errors=True)))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    for it in metrics["slices"]:
        for row in it["values"]:
            cells = [
                f"{100 * found['accuracy']:.1f}% {100 * found['interval'][0]:.1f}–{100 * found['interval'][1]:.1f}%"
                for found in row["arms"].values()
            ]
            assert f" {row['value']}{' small' if row['small'] else ''} {row['count']} {' '.join(cells)}" in page.text
    own = metrics["arms"]["head"]["calibration"]
    assert f"head {own['ece']:.4f} 0.0210 up to 0.0350 0.0300 0.0100 to 0.0500 1.31 {own['ece_after']:.4f}" in page.text
    assert (
        "everything {:.4f} 0.0210 up to 0.0350 – – –".format(metrics["arms"]["everything"]["calibration"]["ece"])
        in page.text
    )
    for told in (
        "Error 44 test images are also in other splits; set data.group.",
        "a difference of 1.2 points (95% interval 0.4 to 2.0)",
        "The effect of copies across splits was measured by a linear probe.",
        "Near 61 150 38 41 0",
        "train/2.jpg",
        "This study is of people, going by celeba-hq-gender, female, male, age.",
        "not who a person is",
        "of 3,000 labels look wrong",
    ):
        assert told in page.text
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert ids >= {"audit", "slices", "calibration", "agreement", "gallery", "label-errors", "use"}
    assert ids >= {"fig-slices-age-0", "fig-reliability-head", "fig-cost-seconds", "tab-gaps", "tab-duplicates"}


@pytest.mark.parametrize(
    "options",
    [
        {"arms": ("head",), "epochs": 1},
        {"classes": tuple(f"class {number}" for number in range(30)), "images": 120},
        {"classes": ("女性", "मानव"), "images": 60},
        {"classes": ("$\\frac{$", "_hidden"), "images": 60},
    ],
)
def test_other_studies(tmp_path, options):
    assert len(Page(write_report(make_run(tmp_path, **options))).all("section")) == 6


def test_a_perfect_arm_has_no_mistakes_to_show(tmp_path, no_figures):
    run = make_run(tmp_path, images=60)
    table = pq.read_table(run / "predictions.parquet")
    pq.write_table(table.set_column(5, "predicted", table["label"]), run / "predictions.parquet")
    assert "It makes no mistake on the test set." in Page(write_report(run)).text


def test_hostile_names_stay_text(tmp_path):
    classes = (f"<b onclick=alert(1)>{HOSTILE}"[:38], "`</svg><script>alert(2)</script>`")
    page = Page(write_report(make_run(tmp_path, classes, images=60, text=HOSTILE, errors=True)))
    assert [script.get("type") for script in page.all("script")] == ["application/json", None]
    assert not [attributes for _, attributes in page.elements if any(name.startswith("on") for name in attributes)]
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    assert page.text.count(HOSTILE) >= 5
    assert classes[1] in page.text


@pytest.mark.parametrize(
    "name", ["metrics.json", "predictions.parquet", "examples.parquet", "gallery.parquet", "environment.json"]
)
def test_a_run_without_a_file_is_not_finished(tmp_path, name):
    run = make_run(tmp_path, images=60)
    (run / name).unlink()
    with pytest.raises(StorageError, match=rf"is not a finished run: it has no {name}; run the study first\.$"):
        write_report(run)


@pytest.mark.parametrize("name", ["metrics.json", "predictions.parquet", "recipe.toml", "modules.json"])
def test_a_broken_file_is_named_and_the_old_page_stays(tmp_path, name):
    run = make_run(tmp_path, images=60)
    (run / "report.html").write_text("before")
    (run / name).write_bytes(b"\xff\xfe broken")
    with pytest.raises(StorageError, match=rf"{name} cannot be read"):
        write_report(run)
    assert (run / "report.html").read_text() == "before"


def test_metrics_of_something_else_are_refused(tmp_path):
    run = make_run(tmp_path, images=60)
    metrics = json.loads((run / "metrics.json").read_text())
    other = r"and this version of thaw reads format 1; run the study again\.$"
    for found, why in (
        ({"accuracy": 0.9}, f"has no format number, {other}"),
        ([1], f"has no format number, {other}"),
        (metrics | {"format": 2}, f"has format 2, {other}"),
        (
            metrics | {"arms": {"../../escape": metrics["arms"]["head"]}},
            r"is damaged: arms\..*; run the study again\.$",
        ),
        (metrics | {"best": "none"}, r"is damaged: it: .*no arm 'none'"),
        (metrics | {"runs": []}, r"is damaged: runs: Extra inputs"),
    ):
        write_json(run / "metrics.json", found)
        with pytest.raises(StorageError, match=why):
            write_report(run)


def test_names_of_arms_are_set_as_code(page):
    assert page.source.count("<code>everything</code>") > 5
    assert "<b>everything</b>" not in page.source
    told = [figure["aria-label"] for figure in page.all("svg") if "everything" in figure["aria-label"]]
    assert told
    assert all("“everything”" in label for label in told)


def test_published_results_stand_beside_the_studys_own(tmp_path, no_figures):
    run = make_run(tmp_path, images=200, arms=("head", "everything"))
    assert "Beside what was published" not in Page(write_report(run)).text
    accuracy = json.loads((run / "metrics.json").read_text())["arms"]["head"]["over_seeds"]["accuracy"]["mean"]
    recipe = (run / "recipe.toml").read_text()
    (run / "recipe.toml").write_text(
        f"{recipe}\n[published.head]\naccuracy = {accuracy:.4f}\nf1 = 0.3\nimages = 2000\n"
    )
    text = Page(write_report(run)).text
    low, high = wilson(round(accuracy, 4), 2000)
    assert f"head Accuracy {accuracy:.4f} {low:.3f}–{high:.3f} {accuracy:.4f} " in text
    assert "1 of 2 published scores agree with this study. More than chance is the difference in F1 of head (" in text


def test_what_undermines_trust_is_told_first(tmp_path, no_figures):
    run = make_run(tmp_path, images=300, arms=("head", "everything"), errors=True)
    page = Page(write_report(run))
    trust = page.source.split('class="trust"')[1].split("</div>")[0]
    assert "44 of 300 test images have a copy in another split." in trust.replace(SPACE, " ")
    assert page.source.index('class="trust"') < page.source.index("<main")
