"""The page of a run in a real browser: it says and fetches nothing; slider, filter and tables work by keyboard."""

import base64

import pytest
from browser import Browser, program
from test_run_page import EVIL, folder  # noqa: F401

from lk_downstream.reports import Facts, Section, write_page
from lk_downstream.reports.run import write_run_page

pytestmark = pytest.mark.skipif(program() is None, reason="no Chromium on this machine (apt-get install chromium)")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture
def opened(browser, folder):  # noqa: F811
    path = write_run_page(folder)
    browser.said.clear(), browser.asked.clear()
    browser.open(path)
    yield browser
    assert browser.said == []
    assert browser.asked == [path.as_uri()]


def test_the_slider_moves_by_keyboard_and_by_mouse(opened):
    opened.run("document.querySelector('input.cut').focus()")
    cut = "document.querySelector('.stack').style.getPropertyValue('--cut')"
    opened.press("ArrowRight", 3)
    assert opened.run(cut) == "53%"
    opened.press("Home")
    assert opened.run(cut) == "0%"
    opened.run("document.querySelector('.stack').scrollIntoView({behavior: 'instant', block: 'center'})")
    edges = opened.run("document.querySelector('.stack').getBoundingClientRect().toJSON()")
    x, y, width, height = (edges[name] for name in ("x", "y", "width", "height"))
    opened.click(x + 0.25 * width, y + 0.5 * height)
    assert opened.run(cut) == "25%"
    assert opened.run("document.querySelector('input.cut').value") == "25"
    clip = opened.run("getComputedStyle(document.querySelector('.layer.truth')).clipPath")
    assert "75%" in clip


def test_images_are_filtered_by_class_and_by_metric(opened):
    shown = "[...document.querySelectorAll('.card')].filter(card => card.offsetHeight).length"
    status = "document.querySelector('[data-count]').textContent"
    assert (opened.run(shown), opened.run(status)) == (2, "2 images of 9")
    opened.run("document.querySelector('[data-control=class]').focus()")
    opened.press("ArrowDown")
    assert opened.run("document.activeElement.selectedOptions[0].textContent") == EVIL
    assert (opened.run(shown), opened.run(status)) == (1, "1 images of 9")
    marks = "[...document.querySelectorAll('g[data-class]')].filter(mark => mark.style.display !== 'none').length"
    assert opened.run(marks) == 1  # of the truth; the prediction is of another class, and of a low score
    opened.press("Home")
    opened.run("document.querySelector('[data-control=score]').focus()")
    opened.press("Home")
    assert opened.run(marks) == 2
    opened.run("document.querySelector('[data-control=most]').focus()")
    opened.press("Home")
    assert opened.run(shown) == 0
    opened.press("ArrowRight", 25)
    assert opened.run(shown) == 1  # of 25.0, and the other has no metric
    opened.press("End")
    assert opened.run(shown) == 2


def test_all_controls_are_reached_by_the_tab_key(opened):
    reached = []
    for _ in range(60):
        opened.press("Tab")
        reached.append(opened.run("document.activeElement.className + document.activeElement.tagName"))
    assert reached[0] == "skipA"
    assert {"SELECT", "INPUT", "cutINPUT", "BUTTON", "SUMMARY", "scrollDIV"} <= set(reached)


def test_a_table_is_sorted_by_keyboard(opened):
    opened.run("document.querySelector('table.bars th.number button').focus()")
    column = "[...document.querySelector('table.bars').tBodies[0].rows].map(row => row.cells[1].textContent.trim())"
    assert opened.run(column) == ["25.00", "50.00"]
    opened.press("Enter")
    assert opened.run(column) == ["50.00", "25.00"]
    assert opened.run("document.activeElement.parentElement.getAttribute('aria-sort')") == "descending"
    opened.press("Enter")
    assert opened.run(column) == ["25.00", "50.00"]


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_window(browser, folder, width):  # noqa: F811
    browser.open(write_run_page(folder), width)
    assert browser.run("document.documentElement.scrollWidth") <= width


def test_dark_and_light(opened):
    colours = []
    for scheme in ("light", "dark"):
        opened.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        colours.append([opened.run(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color")])
    opened.call("Emulation.setEmulatedMedia", features=[])
    assert colours[0][0] == "rgb(255, 255, 255)"
    assert colours[0] != colours[1]


def test_on_paper_truth_and_prediction_stand_beside_each_other(opened):
    before = opened.run("document.querySelectorAll('.stack').length")
    opened.run("addEventListener('beforeprint', () => { window.seen = document.querySelectorAll('.stack').length; })")
    assert base64.b64decode(opened.call("Page.printToPDF")["data"]).startswith(b"%PDF")
    assert opened.run("window.seen") == before + 1
    assert opened.run("document.querySelectorAll('.stack').length") == before
    assert not opened.run("document.querySelector('details').open")


def test_what_the_page_must_not_do_would_be_seen(browser, tmp_path):
    from markupsafe import Markup

    planted = Markup("<script>console.log(1)</script><img src='http://127.0.0.1:9/a.png'>")
    browser.said.clear()
    browser.open(write_page(tmp_path / "a.html", "a", [Section("a", [Facts({"a": planted})])]))
    assert len(browser.said) == 2  # both are refused by the page's own policy
