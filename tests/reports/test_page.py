"""Pages: what stands on them, that names do nothing, and that nothing is fetched."""

import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from lk_downstream.reports import (
    Chart,
    Facts,
    Figure,
    Images,
    Intervals,
    Line,
    Matrix,
    Number,
    Numbers,
    Section,
    Table,
    Text,
    page,
    write_page,
)  # fmt: skip
from lk_downstream.reports.images import (
    Box,
    Layer,
    Sample,
    encoded_image,
    encoded_mask,
    encoded_outline,
    from_plain,
    plain,
)

EVIL = "</script><script>alert(1)</script>\"><img src=x onerror='alert(1)'>{{ 7 * 7 }}"
CLASSES, PALETTE = ("road", EVIL, "sky"), [(128, 64, 128), (70, 70, 70), (250, 170, 30)]
ADDRESSES = ("src", "href", "action", "data", "poster", "srcset", "xlink:href", "formaction")


class Seen(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)

    def dangers(self):
        """What could run or fetch something, beside the page's own script."""
        for tag, attributes in self.elements:
            yield from (f"<{tag} {name}>" for name in attributes if name.startswith("on"))
            for name in ADDRESSES:
                address = attributes.get(name)
                if address is not None and not address.startswith(("data:image/", "data:,", "#")):
                    yield f"{name}={address}"
            if tag in ("iframe", "object", "embed", "base", "form") or (tag == "link" and attributes["rel"] != "icon"):
                yield f"<{tag}>"
        scripts = [tag for tag, _ in self.elements if tag == "script"]
        yield from scripts[1:]


def samples(name="a"):
    image, mask = np.zeros((20, 30, 3), np.uint8), np.full((20, 30), 255, np.uint8)
    mask[5:10] = 1
    truth = Layer(encoded_mask(mask, PALETTE), [Box(0.1, 0.2, 0.3, 0.4, 1, None, encoded_outline(mask > 9, (1, 2, 3)))])
    prediction = Layer("", [Box(0.1, 0, 0.5, 0.5, 2, 0.25)])
    return [
        Sample(name, encoded_image(image), (30, 20), 0.25, {"worst class": EVIL}, [1, 2], truth, prediction),
        Sample("b", encoded_image(image), (30, 20)),
    ]


def sections(name=EVIL):
    line = Line(name, [1, 2, 3, 4], [0.5, math.nan, 2, 3])
    return [
        Section(name, [Numbers([Number(name, "89.63", name)]), Facts({name: name})], note=name),
        Section("charts", [
            Chart([line, line._replace(weak=True)], title=name, x=name, y=name), Chart([line._replace(points=True)]),
            Intervals([name, "b"], [0.5, math.nan], [0.4, 0.1], [0.6, 0.2], title=name, x=name),
        ]),
        Section("tables", [
            Table([name, "IoU"], [[name, 0.5], ["b", math.nan], ["c", 0.75]], ["IoU"], bar="IoU", best={"IoU": "max"}),
            Matrix(np.array([[5, 3, 0], [7, 1, 0], [0, 0, 2]]), [name, *CLASSES[1:]], name),
            Text(name, name, folded=True), Text(name),
        ]),
        Section("images", [Images(samples(name), name, CLASSES, PALETTE, 9), Figure(b"\x89PNG", name)]),
        Section("left out", []),
    ]  # fmt: skip


def test_names_are_texts_wherever_they_stand():
    seen = Seen(page(EVIL, sections(), EVIL))
    assert list(seen.dangers()) == []
    assert sum(EVIL in text for text in seen.texts) > 15
    assert "left out" not in seen.texts
    quiet = Seen(page("a", sections("a"), "a"))  # the same elements, whatever the names are
    assert [tag for tag, _ in quiet.elements] == [tag for tag, _ in seen.elements]


@pytest.mark.parametrize("planted", [EVIL, "<img src='http://a/b.png'>", "<form>", "<a href='javascript:alert(1)'>"])
def test_a_planted_danger_is_found(planted):
    from markupsafe import Markup

    assert list(Seen(page("a", [Section("a", [Facts({"a": Markup(planted)})])])).dangers())


def test_nothing_but_the_pages_own_script_may_run_and_nothing_be_fetched():
    import base64
    import hashlib

    text = page("a", sections())
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'; img-src data:;")
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert not re.search(r"https?://", text)


def test_a_table_shows_what_it_was_given():
    table = sections()[2].parts[0]
    (_, best), (_, none), (_, third) = table.cells()
    assert (best.text, best.bar, best.best) == ("50.00", 50.0, False)
    assert none.text == "\N{EN DASH}"
    assert (third.text, third.best) == ("75.00", True)
    assert table.numeric() == [False, True]
    assert Table(["a", "b"], []).numeric() == [False, False]


def test_a_matrix_of_many_classes_shows_those_with_errors():
    counts = np.diag(np.full(60, 9))
    counts[7, 3] = counts[55, 2] = 4
    matrix = Matrix(counts, [str(index) for index in range(60)])
    assert len(matrix.shown()) == 40
    assert {2, 3, 7, 55} <= set(matrix.shown())
    assert "40 of 60 classes" in matrix.note()
    rows = dict(Matrix(np.array([[3, 1], [0, 0]]), "ab", "pixels").rows())
    assert rows["a"][1] == (0.25, "a \N{RIGHTWARDS ARROW} b: 1 pixels, 25.00 %")


@pytest.mark.parametrize("log", [False, True])
def test_a_chart_has_round_ticks_and_its_points_at_their_places(log):
    line = Line("a", [10, 100, 1000], [0.1, 0.2, 0.3])
    drawn = Chart([line], log_x=log).drawing()
    places = [mark[0] for mark in drawn["lines"][0].marks]
    ratio = (places[1] - places[0]) / (places[2] - places[0])
    assert ratio == pytest.approx(0.5 if log else 90 / 990, abs=0.01)
    assert 3 <= len(drawn["x"]) <= 7
    assert 3 <= len(drawn["y"]) <= 8
    tick = next(tick for tick in drawn["y"] if tick.text == "0.2")
    assert drawn["lines"][0].marks[1][1] == pytest.approx(tick.place, abs=0.11)


def test_a_long_line_keeps_its_peaks():
    values = np.zeros(10_000)
    values[4321] = 1.0
    chart = Chart([Line("a", range(10_000), values)])
    path = chart.drawing()["lines"][0].path
    assert len(path) < 10_000
    assert min(float(point.split()[1]) for point in path[1:].split("L")) < 25  # near the upper edge


@pytest.mark.parametrize("values", [[], [math.nan], [0.5], [0.0, 0.0], [1e-30, 1e30]])
def test_charts_of_odd_values(values):
    assert "<svg" in page("a", [Section("a", [Chart([Line("a", range(len(values)), values)], log_y=True)])])


def test_images_come_back_from_their_file_as_they_were():
    given = samples()
    images = from_plain(plain(given, "mIoU", CLASSES, PALETTE, 9))
    assert images.samples[0] == given[0]
    assert math.isnan(images.samples[1].metric)
    assert images.labels() == [1, 2]
    assert (images.layered, images.masked, images.scored) == (True, True, True)
    broken = plain(given, "mIoU", CLASSES, PALETTE, 9)
    broken["samples"][0]["labels"] = [3]
    with pytest.raises(ValueError, match="none of the 3"):
        from_plain(broken)


def test_a_page_is_written_whole(tmp_path):
    path = write_page(tmp_path / "a" / "report.html", "a\udce9", [Section("a", [Text("b")])])
    assert "a\\udce9" in path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
