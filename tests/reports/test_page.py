"""The page of a report in a real browser: console, network, tables, charts, widths, schemes, accessibility."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from axe_core_python.selenium import Axe
from PIL import Image
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from gnn_moe.reports.document import Cell, Column, Document, Section, Span, Table
from gnn_moe.reports.writer import write_report
from tests.reports import golden
from tests.reports.browser import SCHEMES, WIDTHS, chromium, complaints, evaluated, requests, scheme_is, show, wait_for
from tests.reports.samples import NASTY, sample

pytestmark = pytest.mark.slow
A4_WIDTH = 703
"""Pixels of paper between the margins."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(sample(), folder)
    return folder / "report.html"


def header(browser: Chrome, title: str) -> tuple[WebElement, WebElement]:
    """A column's header and its button."""
    button = browser.find_element(By.XPATH, f"//thead//button[normalize-space()='{title}']")
    return button.find_element(By.XPATH, ".."), button


def first_column(header: WebElement) -> list[str]:
    return [cell.text for cell in header.find_elements(By.XPATH, "ancestor::table/tbody/tr/*[1]")]


@pytest.fixture(scope="module")
def pages(page: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sample, and reports that were built from runs: wide tables, long commands, many figures."""
    found = {"sample": page}
    for name in golden.REPORTS:
        folder = tmp_path_factory.mktemp(name)
        write_report(golden.document(name, folder / "runs"), folder / "report")
        found[name] = folder / "report" / "report.html"
    return found


@pytest.mark.parametrize(("name", "width", "scheme"), list(product(["sample", *golden.REPORTS], WIDTHS, SCHEMES)))
def test_the_page_opens_without_complaint_and_fits(
    browser: Chrome, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    page = pages[name]
    show(browser, page, width=width, scheme=scheme)
    found = Axe().run(browser)
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found["violations"]] == []
    assert evaluated(browser, "document.documentElement.scrollWidth") <= width
    # Nothing that is read lies outside the window, but what scrolls within its own frame.
    outside = f"""[...document.querySelectorAll('main *')].filter((each) => !each.closest('.scroll, pre, svg')
        && each.getBoundingClientRect().right > {width}).map((each) => each.outerHTML.slice(0, 80))"""
    assert evaluated(browser, outside) == []
    assert requests(browser) == [page.as_uri()]
    assert complaints(browser) == []


def test_tables_sort_by_click_and_what_has_no_number_stands_last(browser: Chrome, page: Path) -> None:
    show(browser, page)
    column, button = header(browser, "eval loss")
    assert column.get_attribute("aria-sort") == "none"
    for direction, order in (
        ("ascending", ["4", "2", "16", "8", "32"]),
        ("descending", ["16", "2", "4", "8", "32"]),
        ("none", ["2", "4", "8", "16", "32"]),
    ):
        button.click()
        assert column.get_attribute("aria-sort") == direction
        assert first_column(column) == order


def test_tables_sort_by_keyboard_and_words_as_words(browser: Chrome, page: Path) -> None:
    show(browser, page)
    _column, before = header(browser, "eval loss")
    browser.execute_script("arguments[0].focus()", before)
    before.send_keys(Keys.TAB)
    column, button = header(browser, "remark")
    assert browser.switch_to.active_element == button
    button.send_keys(Keys.ENTER)
    assert first_column(column) == ["2", "16", "8", "32", "4"]
    button.send_keys(Keys.SPACE)
    assert first_column(column) == ["32", "8", "16", "2", "4"]
    assert column.get_attribute("aria-sort") == "descending"


def test_the_skip_link_comes_first_and_leads_to_the_content(browser: Chrome, page: Path) -> None:
    show(browser, page)
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    link = browser.switch_to.active_element
    assert link.text == "Skip to the content"
    link.send_keys(Keys.ENTER)
    assert evaluated(browser, "document.activeElement.id") == "content"


def test_charts_take_the_place_of_pictures_and_show_names_as_text(browser: Chrome, page: Path) -> None:
    show(browser, page)
    figure = browser.find_element(By.ID, "figure-loss-curves")
    assert not figure.find_element(By.CSS_SELECTOR, ".static").is_displayed()
    legend = [each.text for each in figure.find_elements(By.CSS_SELECTOR, ".legendtext")]
    assert legend == ["95 % interval", "GNN", "HGNN all_pairs", "attention", NASTY[0]]
    assert browser.find_element(By.CSS_SELECTOR, "#figure-adjacency img").is_displayed()


def test_axes_become_logarithmic_and_traces_switch_off_and_stay_so_in_the_other_scheme(
    browser: Chrome, page: Path
) -> None:
    show(browser, page)
    chart = "document.querySelector('#figure-loss-curves .chart')"
    figure = browser.find_element(By.ID, "figure-loss-curves")
    labels = figure.find_elements(By.CSS_SELECTOR, ".controls > label")
    assert [label.text for label in labels] == ["Logarithmic x axis", "Logarithmic y axis"]
    labels[1].click()
    wait_for(browser, f"{chart}._fullLayout.yaxis.type === 'log'")
    figure.find_elements(By.CSS_SELECTOR, ".legendtoggle")[1].click()
    wait_for(browser, f"{chart}._fullData[1].visible === 'legendonly'")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": [scheme_is("dark")]})
    wait_for(browser, f"{chart}._fullData[4].marker.color === '#EDEDED'")
    assert evaluated(browser, f"{chart}._fullData[0].fillcolor") == "rgba(77,163,224,0.2)"
    assert evaluated(browser, f"{chart}._fullLayout.yaxis.type") == "log"
    assert evaluated(browser, f"{chart}._fullData[1].visible") == "legendonly"
    assert complaints(browser) == []


def test_traces_switch_by_keyboard_and_follow_the_legend(browser: Chrome, page: Path) -> None:
    show(browser, page)
    chart = "document.querySelector('#figure-loss-curves .chart')"
    figure = browser.find_element(By.ID, "figure-loss-curves")
    summary = figure.find_element(By.TAG_NAME, "summary")
    browser.execute_script("arguments[0].focus()", summary)
    summary.send_keys(Keys.ENTER)
    labels = figure.find_elements(By.CSS_SELECTOR, "details label")
    assert [label.text for label in labels] == ["95 % interval", "GNN", "HGNN all_pairs", "attention", NASTY[0]]
    boxes = [label.find_element(By.TAG_NAME, "input") for label in labels]
    assert all(box.is_selected() for box in boxes)
    summary.send_keys(Keys.TAB)
    assert browser.switch_to.active_element == boxes[0]
    boxes[0].send_keys(Keys.SPACE)
    wait_for(browser, f"{chart}._fullData[0].visible === 'legendonly'")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": [scheme_is("dark")]})
    wait_for(browser, f"{chart}._fullData[4].marker.color === '#EDEDED'")
    assert evaluated(browser, f"{chart}._fullData[0].visible") == "legendonly"
    boxes[0].send_keys(Keys.SPACE)
    wait_for(browser, f"{chart}._fullData[0].visible === true")
    figure.find_elements(By.CSS_SELECTOR, ".legendtoggle")[1].click()
    wait_for(browser, "!document.querySelectorAll('#figure-loss-curves details input')[1].checked")
    assert complaints(browser) == []


def test_a_band_goes_with_its_line(browser: Chrome, pages: dict[str, Path]) -> None:
    show(browser, pages["sweep"])
    chart = "document.querySelector('#figure-curves-steps .chart')"
    bands = f"{chart}._fullData.filter((trace) => trace.legendgroup === 'num_experts 2' && !trace.showlegend)"
    assert evaluated(browser, f"{bands}.length") > 0
    figure = browser.find_element(By.ID, "figure-curves-steps")
    figure.find_element(By.TAG_NAME, "summary").click()
    figure.find_element(By.XPATH, ".//details/label[normalize-space()='num_experts 2']/input").click()
    wait_for(browser, f"{bands}.every((trace) => trace.visible === 'legendonly')")
    assert complaints(browser) == []


def test_pointing_at_a_line_shows_its_values(browser: Chrome, page: Path) -> None:
    show(browser, page)
    browser.execute_script(
        "Plotly.Fx.hover(document.querySelector('#figure-loss-curves .chart'), [{curveNumber: 1, pointNumber: 9}])"
    )
    shown = browser.find_element(By.CSS_SELECTOR, "#figure-loss-curves .hoverlayer")
    assert "500" in shown.text
    assert "GNN" in shown.text


def test_without_javascript_the_page_is_whole(browser: Chrome, page: Path) -> None:
    show(browser, page, scripts=False)
    images = browser.find_elements(By.TAG_NAME, "img")
    assert len(images) == 2
    assert all(image.is_displayed() for image in images)
    wait_for(browser, "[...document.images].every((image) => image.complete && image.naturalWidth > 100)")
    assert browser.find_elements(By.TAG_NAME, "button") == []
    assert not browser.find_element(By.CSS_SELECTOR, ".chart").is_displayed()
    assert browser.find_elements(By.TAG_NAME, "input") == []


def test_paper_gets_the_pictures_in_light_colours(browser: Chrome, page: Path) -> None:
    show(browser, page, scheme="dark")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": [scheme_is("dark")]})
    figure = browser.find_element(By.ID, "figure-loss-curves")
    assert figure.find_element(By.TAG_NAME, "img").is_displayed()
    assert not figure.find_element(By.CSS_SELECTOR, ".chart").is_displayed()
    assert evaluated(browser, "getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


@pytest.mark.parametrize("scripts", [True, False])
def test_paper_says_what_the_columns_hold(browser: Chrome, page: Path, scripts: bool) -> None:
    """It cannot be opened there."""
    seen = """[...document.querySelectorAll('dd')].map((each) => each.checkVisibility()
        && each.getBoundingClientRect().height > 0)"""
    show(browser, page, scripts=scripts)
    assert set(evaluated(browser, seen)) == {False}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    wait_for(browser, f"({seen}).every((each) => each)")


@pytest.mark.parametrize("name", ["sample", *golden.REPORTS])
def test_tables_show_every_column_on_a_wide_window_and_on_paper(
    browser: Chrome, pages: dict[str, Path], name: str
) -> None:
    hidden = """[...document.querySelectorAll('.scroll')].filter((each) => each.scrollWidth > each.clientWidth)
        .map((each) => each.querySelector('caption').textContent)"""
    show(browser, pages[name])
    assert evaluated(browser, hidden) == []
    show(browser, pages[name], width=A4_WIDTH)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    assert evaluated(browser, "[...document.querySelectorAll('table')].length") > 0
    assert evaluated(browser, hidden) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_commands_go_on_below_at_an_option(browser: Chrome, pages: dict[str, Path], width: int) -> None:
    show(browser, pages["sweep"], width=width)
    cut = "[...document.querySelectorAll('pre')].filter((each) => each.scrollWidth > each.clientWidth).length"
    assert evaluated(browser, cut) == 0
    broken = """[...document.querySelectorAll('.option')].filter((each) => each.textContent.length < 30
        && each.offsetHeight > 1.6 * parseFloat(getComputedStyle(each).lineHeight)).map((each) => each.textContent)"""
    assert evaluated(browser, broken) == []
    options = evaluated(
        browser, "[...document.querySelector('pre').querySelectorAll('.option')].map((e) => e.offsetTop)"
    )
    assert len(set(options)) > 1
    assert evaluated(browser, "document.querySelector('pre').textContent").startswith(
        "gnn-moe train --num_experts 8 --"
    )


def test_identifiers_break_between_their_words(browser: Chrome, tmp_path: Path) -> None:
    names = ("gnn_optimized_baseline", "hgnn_optimized_comparison", "runs/all_pairs_long_name,seed=42-2b776e")
    columns = tuple(Column(title=name, numeric=False) for name in names)
    row = tuple(Cell(Span(name, href=name)) for name in names)
    section = Section(title=names[1], anchor="s", blocks=(Table(caption=names[0], columns=columns, rows=(row, row)),))
    write_report(Document(title="T", sections=(section,)), tmp_path)
    show(browser, tmp_path / "report.html", width=380)
    broken = """[...document.querySelectorAll('main :is(td, th, li, p, figcaption, h2, h3, a)')].flatMap((each) => {
        const walker = document.createTreeWalker(each, NodeFilter.SHOW_TEXT);
        const found = [];
        while (walker.nextNode()) {
          for (const word of walker.currentNode.data.matchAll(/[A-Za-z0-9.]{2,24}/g)) {
            const range = document.createRange();
            range.setStart(walker.currentNode, word.index);
            range.setEnd(walker.currentNode, word.index + word[0].length);
            const tops = new Set([...range.getClientRects()].map((rect) => Math.round(rect.top)));
            if (tops.size > 1) found.push(word[0]);
          }
        }
        return found;
      })"""
    assert evaluated(browser, f"({broken})") == []


@pytest.mark.parametrize("scripts", [True, False])
def test_pictures_do_not_glare_on_a_dark_page_and_can_be_read(browser: Chrome, page: Path, scripts: bool) -> None:
    show(browser, page, scheme="dark", scripts=scripts)
    picture = browser.find_element(By.CSS_SELECTOR, "#figure-adjacency img")
    shown = np.asarray(Image.open(BytesIO(picture.screenshot_as_png)).convert("RGB"), float)
    paper = np.array([0x15, 0x19, 0x1E])
    assert np.abs(shown[3:, 3] - paper).max() <= 2, "the paper of a picture is not that of the page"
    assert shown.max() > 180, "nothing stands out"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": [scheme_is("dark")]})
    assert evaluated(browser, "getComputedStyle(document.querySelector('#figure-adjacency img')).filter") == "none"
