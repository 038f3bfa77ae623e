"""The page in a real browser: it loads from its own server alone, and what a reader does with it works and outlives a reload.

Nothing waits for a time: a view says in the document which address it shows, once all of it is there.
"""

import csv
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, quote

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from matplotlib.path import Path as Polygon
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from browser import docs, needs_browser
from drawn_runs import Draw, sealed
from rankshift.screen.runs.run import Run
from rankshift.screen.stats import StatOptions, record, statistics
from serving import TOKEN, serving
from support import PATIENCE, until

NASTY = "</script><b>G</b>&amp;'\""
VIEWS = [
    "view=table",
    "view=gene&gene=GENE7&by=donor",
    "view=cells&gene=GENE7",
    "view=compare",
    "view=sql",
    "view=about",
]

pytestmark = needs_browser


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Run]:
    """Two drawn runs of the same 120 genes, ten truly shifted, some with names that would break a careless page."""
    folder = tmp_path_factory.mktemp("explored")
    out = {}
    for name, effect in (("down", 3e-3), ("up", -3e-3)):
        draw = Draw(
            cells=200,
            genes=120,
            per_cell=60,
            shifted=10,
            effect=effect,
            donors=(0.5, 0.5),
            abundance_sd=0.4,
            affected=2000,
        )
        run, _ = draw.run(folder / name)
        names = pq.read_table(run.path / "perturbations.parquet")
        symbols = [NASTY if i == 5 else f"GENE{i}" for i in range(120)]
        place = names.column_names.index("symbols")
        pq.write_table(names.set_column(place, "symbols", [symbols]), run.path / "perturbations.parquet")
        out[name] = sealed(run)
    record(out["down"], statistics(out["down"], "goal", judging=StatOptions(bootstrap=20)))
    return out


@pytest.fixture(scope="module")
def address(runs, tmp_path_factory) -> Iterator[str]:
    drugs = tmp_path_factory.mktemp("drugs") / "drugs.csv"
    pd.DataFrame({"symbol": ["gene7", "gene9"], "drug": ["aspirin", "<b>x</b>"], "phase": [4, 1]}).to_csv(
        drugs, index=False
    )
    with serving(runs, {"drugs": drugs}) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def browser(address, tmp_path_factory) -> Iterator[Any]:
    downloads = tmp_path_factory.mktemp("downloads")
    with docs.chromium(docs.LAPTOP, downloads=downloads) as driver:
        driver.downloads = downloads
        driver.address = address
        driver.get(f"{address}?token={TOKEN}")
        yield driver


def settled(browser: Any) -> None:
    """Wait until the view of the address is there, and nothing is under way."""
    there = """return document.body.dataset.shown === location.hash
        && document.getElementById('main').getAttribute('aria-busy') === 'false'"""
    WebDriverWait(browser, PATIENCE).until(lambda d: d.execute_script(there))


def shown(browser: Any, view: str, size: tuple[int, int] = docs.LAPTOP) -> Any:
    """A view of the page, all of it there."""
    docs.screen(browser, size)
    browser.get(f"{browser.address}?{quote(view)}{size[0]}#{view}")  # another query, so that the page is loaded anew
    settled(browser)
    assert not browser.find_element(By.ID, "error").is_displayed()
    return browser


def text(browser: Any, selector: str) -> str:
    return browser.find_element(By.CSS_SELECTOR, selector).text


def rows(browser: Any, table: str) -> list[list[str]]:
    """Texts of a plain table's cells."""
    script = """return [...document.querySelectorAll(arguments[0] + ' tbody tr')]
        .map((r) => [...r.cells].map((c) => c.textContent))"""
    return browser.execute_script(script, f"#{table}")


def grid(browser: Any, field: str) -> list[str]:
    """Texts of a column of the grid, as shown."""
    script = """return [...document.querySelectorAll('#grid .tabulator-row .tabulator-cell')]
        .filter((c) => c.getAttribute('tabulator-field') === arguments[0]).map((c) => c.textContent)"""
    return browser.execute_script(script, field)


def wait(browser: Any, true: Any) -> None:
    WebDriverWait(browser, PATIENCE).until(lambda d: true())


def state(browser: Any) -> dict[str, str]:
    """What the address holds."""
    return {k: v[0] for k, v in parse_qs(browser.execute_script("return location.hash").lstrip("#")).items()}


def number(shown: str) -> float:
    return float(shown.replace("−", "-").replace(",", ""))


@pytest.mark.parametrize("size", [docs.LAPTOP, docs.PHONE], ids=["laptop", "phone"])
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_loads_from_its_own_server_and_the_console_is_silent(view, size, browser):
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    shown(browser, view, size)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]  # nothing sticks out
    browser.find_element(By.ID, "theme").click()
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert len(asked) > 5
    assert [url for url in asked if not url.startswith((browser.address, "data:", "blob:"))] == []
    browser.find_element(By.ID, "theme").click()


def test_the_secret_is_not_in_the_address(browser):
    shown(browser, "view=table")
    assert TOKEN not in browser.current_url
    assert browser.execute_script("return document.cookie") == ""


def test_a_gene_is_searched_by_the_keyboard_alone(browser):
    shown(browser, "view=table")
    browser.find_element(By.TAG_NAME, "body").send_keys("/")
    field = browser.switch_to.active_element
    assert field.get_attribute("id") == "find"
    field.send_keys("gene11")
    wait(browser, lambda: len(browser.find_elements(By.CSS_SELECTOR, "#found li")) == 11)  # GENE11, GENE110 to GENE119
    assert field.get_attribute("aria-expanded") == "true"
    field.send_keys(Keys.ARROW_DOWN)
    marked = text(browser, "#found li[aria-selected='true'] b")
    assert field.get_attribute("aria-activedescendant") == "found-1"
    field.send_keys(Keys.ENTER)
    wait(browser, lambda: text(browser, "#gene-title") == marked)
    settled(browser)
    assert state(browser)["view"] == "gene"
    browser.back()
    settled(browser)
    assert browser.find_element(By.ID, "view-table").is_displayed()


def test_the_page_of_a_gene_has_its_numbers(browser, runs):
    shown(browser, "view=gene&gene=GENE7&by=donor")
    want = (
        runs["down"]
        .sql(
            "SELECT donor, count(*) AS n, avg(shift_goal) AS m FROM shifts WHERE symbols = 'GENE7' GROUP BY ALL ORDER BY 1"
        )
        .to_pylist()
    )
    found = rows(browser, "groups")
    assert [row[0] for row in found] == [row["donor"] for row in want]
    assert [int(row[1]) for row in found] == [row["n"] for row in want]
    assert [number(row[2]) for row in found] == pytest.approx([row["m"] for row in want], rel=6e-3)
    points = browser.execute_script("return document.getElementById('plot-gene').data.map((t) => t.y.length)")
    assert points == [row["n"] for row in want]
    assert {row[0] for row in rows(browser, "arms")} == {"down", "up"}
    assert len(rows(browser, "neighbours")) > 5
    assert len(rows(browser, "effects")) > 3
    assert "aspirin" in text(browser, "#own")
    links = browser.find_elements(By.CSS_SELECTOR, "#gene-links a")
    assert [link.get_attribute("rel") for link in links] == ["noopener noreferrer"] * 3


def test_a_name_that_looks_like_markup_is_a_name(browser):
    shown(browser, f"view=gene&gene={quote('ENSG00000000005')}")
    assert text(browser, "#gene-title") == NASTY
    shown(browser, "view=table&filters=" + quote(json.dumps({"symbols": "</script>"})))
    wait(browser, lambda: grid(browser, "symbols") == [NASTY])
    shown(browser, "view=gene&gene=GENE9")
    assert "<b>x</b>" in text(browser, "#own")


def test_the_table_filters_sorts_and_keeps_both_over_a_reload(browser, runs):
    shown(browser, "view=table")
    assert len(grid(browser, "symbols")) == 25
    field = browser.find_element(By.CSS_SELECTOR, ".tabulator-col[tabulator-field='cells'] input")
    field.send_keys(">100")
    most = runs["down"].sql(
        "SELECT symbols, count(*) AS n FROM shifts GROUP BY 1 HAVING n > 100 ORDER BY n DESC, symbols"
    )
    wait(browser, lambda: text(browser, "#table-about").startswith(f"{most.num_rows} of 120"))
    header = browser.find_element(
        By.CSS_SELECTOR, ".tabulator-col[tabulator-field='cells'] .tabulator-col-title button"
    )
    header.send_keys(Keys.ENTER)  # by the keyboard
    first = [f"{n:,}" for n in most["n"].to_pylist()[:25]]
    wait(browser, lambda: grid(browser, "cells") == first)
    assert state(browser)["sort"] == "-cells"
    browser.refresh()
    settled(browser)
    wait(browser, lambda: grid(browser, "cells") == first)
    field = browser.find_element(By.CSS_SELECTOR, ".tabulator-col[tabulator-field='cells'] input")
    assert field.get_attribute("value") == ">100"
    field.clear()
    field.send_keys("many")
    wait(browser, lambda: "Cells holds numbers" in text(browser, "#error"))


def test_pages_turn_and_a_name_opens_its_gene(browser):
    shown(browser, "view=table")
    first = grid(browser, "symbols")
    browser.find_element(By.CSS_SELECTOR, ".tabulator-page[data-page='next']").click()
    wait(browser, lambda: len(grid(browser, "symbols")) == 25 and not set(first) & set(grid(browser, "symbols")))
    assert state(browser)["page"] == "2"
    name = grid(browser, "symbols")[0]
    browser.find_element(By.CSS_SELECTOR, "#grid .tabulator-row a").click()
    wait(browser, lambda: text(browser, "#gene-title") == name)


def test_columns_of_the_users_table_are_filtered_like_others(browser):
    shown(browser, "view=table&filters=" + quote(json.dumps({"drugs.phase": ">=4"})))
    wait(browser, lambda: grid(browser, "symbols") == ["GENE7"])
    assert grid(browser, "drugs.drug") == ["aspirin"]


def test_a_lasso_ranks_again_and_outlives_a_reload(browser, runs):
    shown(browser, "view=cells&gene=GENE7")
    plot = browser.find_element(By.CSS_SELECTOR, "#plot-map .nsewdrag")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    size = plot.rect
    wide, high = size["width"] * 0.3, size["height"] * 0.3
    drag = ActionChains(browser).move_to_element_with_offset(plot, int(-wide), int(-high)).click_and_hold()
    for across, down in ((wide * 1.5, 0), (0, high * 1.5), (-wide * 1.5, 0), (0, -high * 1.2)):
        drag = drag.move_by_offset(int(across), int(down))
    drag.release().perform()
    wait(browser, lambda: "lasso" in state(browser))
    settled(browser)
    corners = [tuple(map(float, pair.split(","))) for pair in state(browser)["lasso"].split(" ")]
    places = browser.execute_script(
        "return document.getElementById('plot-map').data.flatMap((t) => t.x.map((x, i) => [t.text[i], x, t.y[i]]))"
    )
    inside = [p for p in places if Polygon(corners).contains_point(p[1:])]
    cells = [int(re.match(r"cell(\d+)", p[0])[1]) for p in inside]
    assert 20 < len(cells) < 200
    assert text(browser, "#lasso-about").startswith(f"{len(cells)} cells.")
    want = (
        runs["down"]
        .sql(
            f"SELECT symbols, avg(shift_goal) AS m FROM shifts WHERE cell IN ({', '.join(map(str, cells))}) GROUP BY 1 "
            "HAVING count(*) >= 3 ORDER BY abs(m) DESC LIMIT 200"
        )
        .to_pylist()
    )
    found = rows(browser, "ranked")
    assert [row[0] for row in found][:20] == [row["symbols"] for row in want][:20]
    assert [number(row[2]) for row in found][:20] == pytest.approx([row["m"] for row in want][:20], rel=6e-3)
    browser.refresh()
    settled(browser)
    assert rows(browser, "ranked") == found
    browser.find_element(By.ID, "unlasso").click()
    wait(browser, lambda: "lasso" not in state(browser))
    settled(browser)
    assert rows(browser, "ranked") == []


def test_a_group_of_cells_is_chosen_without_a_pointer(browser, runs):
    shown(browser, "view=cells")
    choose = browser.find_element(By.ID, "choose")
    choose.send_keys("donor: donor1")
    wait(browser, lambda: "choose" in state(browser))
    settled(browser)
    count = runs["down"].sql("SELECT count(*) AS n FROM cells WHERE donor = 'donor1'")["n"][0].as_py()
    assert text(browser, "#lasso-about").startswith(f"{count} cells.")
    assert len(rows(browser, "ranked")) > 50


def test_the_map_colours_cells_by_any_perturbation_or_group(browser, runs):
    shown(browser, "view=cells&gene=GENE7")
    counts = "return document.getElementById('plot-map').data.map((t) => t.x.length)"
    having = runs["down"].sql("SELECT count(*) AS n FROM shifts WHERE symbols = 'GENE7'")["n"][0].as_py()
    assert browser.execute_script(counts) == [200 - having, having]
    Select(browser.find_element(By.ID, "colour")).select_by_value("donor")
    wait(browser, lambda: state(browser).get("colour") == "donor")
    settled(browser)
    assert browser.execute_script(counts) == [100, 100]
    field = browser.find_element(By.ID, "find")
    field.send_keys("GENE12")
    wait(browser, lambda: text(browser, "#found").startswith("GENE12"))
    field.send_keys(Keys.ENTER)
    wait(browser, lambda: state(browser).get("gene") == "ENSG00000000012")
    settled(browser)
    assert state(browser)["view"] == "cells"
    assert Select(browser.find_element(By.ID, "colour")).first_selected_option.text == "shift towards goal: GENE12"


def test_two_runs_side_by_side(browser, runs):
    shown(browser, "view=compare")
    means = [
        run.sql("SELECT symbols, avg(shift_goal) AS m FROM shifts GROUP BY 1 HAVING count(*) >= 10 ORDER BY 1")
        for run in runs.values()
    ]
    x, y = (table["m"].to_numpy() for table in means)
    slope, base = np.polyfit(x, y, 1)
    residual = dict(zip(means[0]["symbols"].to_pylist(), y - (slope * x + base), strict=True))
    order = sorted(residual, key=lambda name: -abs(residual[name]))
    found = rows(browser, "residuals")
    assert [row[0] for row in found[:10]] == order[:10]
    assert [number(row[3]) for row in found[:10]] == pytest.approx([residual[name] for name in order[:10]], rel=6e-3)
    drawn = browser.execute_script("return document.getElementById('plot-compare').data.map((t) => t.x.length)")
    assert drawn == [len(x) - 12, 12, 2]  # a tenth of 120 is marked
    Select(browser.find_element(By.ID, "y")).select_by_value("down similarity")
    wait(browser, lambda: state(browser).get("y") == "down similarity")
    settled(browser)
    lead = text(browser, "#compare-lead")
    browser.refresh()
    settled(browser)
    assert text(browser, "#compare-lead") == lead
    browser.find_element(By.CSS_SELECTOR, "#residuals a").click()
    wait(browser, lambda: browser.find_element(By.ID, "view-gene").is_displayed())
    settled(browser)


def test_sql_is_asked_refused_and_stopped(browser):
    shown(browser, "view=sql")
    query = browser.find_element(By.ID, "query")
    query.clear()
    query.send_keys("SELECT count(*) AS n FROM shifts JOIN up.shifts USING (cell, gene_ids)", Keys.CONTROL, Keys.ENTER)
    wait(browser, lambda: text(browser, "#sql-about").startswith("1 rows"))
    assert rows(browser, "answer") == [["12,000"]]
    browser.refresh()
    settled(browser)
    assert rows(browser, "answer") == [["12,000"]]
    query = browser.find_element(By.ID, "query")
    query.clear()
    query.send_keys("DROP VIEW shifts", Keys.CONTROL, Keys.ENTER)
    wait(browser, lambda: "DROP would change something" in text(browser, "#sql-about"))
    query.clear()
    query.send_keys("SELECT sum(a.range) FROM range(10000000000) a, range(10000000000) b", Keys.CONTROL, Keys.ENTER)
    wait(browser, lambda: browser.find_element(By.ID, "stop").is_enabled())
    browser.find_element(By.ID, "stop").click()
    wait(browser, lambda: text(browser, "#sql-about") == "Stopped.")


def test_tables_are_saved_as_files(browser, runs):
    shown(browser, "view=table&filters=" + quote(json.dumps({"cells": ">100"})))
    browser.find_element(By.ID, "table-save").click()
    saved = browser.downloads / "table.csv"
    until(saved.exists)
    want = runs["down"].sql("SELECT symbols FROM shifts GROUP BY 1 HAVING count(*) > 100")
    with saved.open(newline="") as lines:
        assert {row["symbols"] for row in csv.DictReader(lines)} == set(want["symbols"].to_pylist())
    shown(browser, "view=sql&sql=" + quote("SELECT * FROM shifts"))
    browser.find_element(By.ID, "sql-save").click()
    saved = browser.downloads / "answer.csv"
    until(saved.exists)
    assert len(saved.read_text().splitlines()) == 12_001


def test_another_run_keeps_the_gene(browser):
    shown(browser, "view=gene&gene=GENE7")
    Select(browser.find_element(By.ID, "run")).select_by_value("up")
    wait(browser, lambda: state(browser).get("run") == "up")
    settled(browser)
    assert text(browser, "#gene-title") == "GENE7"
    assert text(browser, "#effects-about").startswith("Genes whose embedding")


def test_a_gene_that_is_not_there_is_said(browser):
    browser.get(f"{browser.address}?none#view=gene&gene=NOBODY")
    settled(browser)
    assert text(browser, "#error") == "run down has no perturbation 'NOBODY': search for one of its genes"


@pytest.mark.slow
def test_the_system_decides_the_first_colours_and_figures_follow(address):
    with docs.chromium(docs.PHONE, dark=True) as driver:
        driver.address = address
        driver.get(f"{address}?token={TOKEN}")
        shown(driver, "view=gene&gene=GENE7", docs.PHONE)
        ground = """return [getComputedStyle(document.querySelector('#view-gene')).backgroundColor,
            document.querySelector('#plot-gene .main-svg').style.background]"""
        assert driver.execute_script(ground) == ["rgb(22, 29, 38)"] * 2
        driver.find_element(By.ID, "theme").click()
        wait(driver, lambda: driver.execute_script(ground) == ["rgb(255, 255, 255)"] * 2)
