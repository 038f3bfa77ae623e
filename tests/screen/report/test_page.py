"""The report in a real browser: nothing loaded, nothing complained of, and what a reader does with it works."""

import csv
import json
import subprocess
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from browser import docs, needs_browser
from drawn_runs import Draw
from rankshift.screen.engine.screener import run as screen
from rankshift.screen.report import write_report
from rankshift.screen.report.plots import theme
from rankshift.screen.runs.run import Run
from rankshift.screen.stats import StatOptions
from support import ROOT

V1 = ROOT / "tests" / "golden" / "v1"
NASTY = "</script><b>G</b>"

pytestmark = needs_browser


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Path:
    """Report of a drawn run with ten true shifts among 200 genes, some with names that would break a careless page."""
    folder = tmp_path_factory.mktemp("page")
    draw = Draw(cells=300, genes=200, per_cell=60, shifted=10, effect=3e-3, donors=(0.5, 0.5), abundance_sd=0.4)
    run, truth = draw.run(folder / "run")
    names = pq.read_table(run.path / "perturbations.parquet")
    symbols = [NASTY if i == int(np.flatnonzero(truth)[0]) else f"GENE{i}" for i in range(200)]
    place = names.column_names.index("symbols")
    pq.write_table(names.set_column(place, "symbols", [symbols]), run.path / "perturbations.parquet")
    sets = {"planted": np.flatnonzero(truth), NASTY: np.arange(40, 80), "small": np.arange(3)}
    lines = ["\t".join([name, "a description", *(symbols[i] for i in genes)]) for name, genes in sets.items()]
    (folder / "sets.gmt").write_text("\n".join(lines))
    write_report(run, folder / "planted.html", judging=StatOptions(bootstrap=20), sets=folder / "sets.gmt")
    return folder / "planted.html"


@pytest.fixture(scope="module")
def toy(bundles, tmp_path_factory) -> Path:
    """Report of toy cells with states, gene shifts, and embeddings from their bundle."""
    folder = tmp_path_factory.mktemp("page")
    route = {"states": V1 / "state_embeddings.json", "state_key": "disease", "start": "nf", "goal": "dcm"}
    run = screen(V1 / "cells.parquet", bundles["v1"], folder / "run", perturb="delete", gene_shifts=True, **route)
    write_report(run, folder / "toy.html", judging=StatOptions(min_cells=2, bootstrap=20))
    return folder / "toy.html"


@pytest.fixture(scope="module")
def tiny(bundles, tmp_path_factory) -> Path:
    """Report of one gene in one cell."""
    folder = tmp_path_factory.mktemp("page")
    symbol = next(iter(json.loads((V1 / "gene_names.json").read_text())))
    options = {"perturb": "overexpress", "genes": [symbol], "max_cells": 1}
    run = screen(V1 / "cells.parquet", bundles["v1"], folder / "run", **options)
    write_report(run, folder / "tiny.html")
    return folder / "tiny.html"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Report of a drawn run of a genome's size: 20,000 genes, of which more than 15,000 can be tested."""
    folder = tmp_path_factory.mktemp("page")
    run, _ = Draw(cells=100, genes=20_000, per_cell=4000, shifted=40, effect=3e-3, abundance_sd=0.4).run(folder / "run")
    write_report(run, folder / "whole.html", judging=StatOptions(bootstrap=0))
    return folder / "whole.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Any]:
    downloads = tmp_path_factory.mktemp("downloads")
    with docs.chromium(docs.LAPTOP, downloads=downloads) as driver:
        driver.downloads = downloads
        yield driver


def shown(browser: Any, report: Path, size: tuple[int, int] = docs.LAPTOP) -> Any:
    """The report in the browser, every figure drawn."""
    docs.screen(browser, size)
    browser.get(report.as_uri())
    docs.when_drawn(browser)
    return browser


def column(browser: Any, key: str) -> list[str]:
    """Texts of a column of the table, as shown."""
    headers = browser.find_elements(By.CSS_SELECTOR, "#table th")
    place = [h.get_attribute("data-key") for h in headers].index(key) + 1
    cells = browser.find_elements(By.CSS_SELECTOR, f"#table tbody td:nth-child({place})")
    return [cell.get_attribute("textContent") for cell in cells]


def click(browser: Any, selector: str) -> None:
    element = browser.find_element(By.CSS_SELECTOR, selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


@pytest.mark.parametrize("name", ["planted", "toy", "tiny"])
@pytest.mark.parametrize("size", [docs.LAPTOP, docs.PHONE], ids=["laptop", "phone"])
def test_it_loads_nothing_and_the_console_is_silent(name, size, browser, request):
    report = request.getfixturevalue(name)
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    shown(browser, report, size)
    click(browser, "#theme")
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    width = browser.execute_script("return document.documentElement.scrollWidth")
    assert width <= size[0]  # nothing sticks out to the side


def test_the_volcano_of_a_whole_genome_is_drawn(whole, browser):
    browser.get_log("browser")
    shown(browser, whole)
    table = json.loads(browser.execute_script("return document.getElementById('data').textContent"))["table"]
    tested = sum(value is not None for value in table["fdr"])
    assert tested > 15_000
    points = browser.execute_script(
        """const places = [...document.querySelectorAll('#plot-volcano .point')].map((p) => p.getBoundingClientRect());
        return [places.length, places.filter((r) => r.width > 0 && r.left >= 0 && r.right <= innerWidth).length]"""
    )
    assert points == [tested, tested]
    plot = browser.find_element(By.ID, "plot-volcano")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    picture = Image.open(BytesIO(plot.screenshot_as_png)).convert("RGB")
    towards = tuple(int(theme.TOWARDS[i : i + 2], 16) for i in (1, 3, 5))
    near = np.abs(np.asarray(picture, int) - towards).max(2) < 40
    assert near.sum() > 500, "the hits are seen in their colour"
    assert browser.get_log("browser") == []


@pytest.mark.slow
def test_a_small_report_is_a_small_file(planted, tiny):
    assert tiny.stat().st_size < 2_000_000
    assert planted.stat().st_size < 3_000_000


def test_the_command_to_paste_gives_the_shell_one_query_whatever_a_gene_is_called(planted, browser, tmp_path):
    """The words a shell makes of it are those meant, and nothing in a name runs."""
    shown(browser, planted)
    data = json.loads(browser.execute_script("return document.getElementById('data').textContent"))
    for name in (
        "ENSG9",
        "ENSG$(touch F)",
        "ENSG`touch F`",
        "x'; touch F; '",
        'x"; touch F; "',
        "a\\",
        "a!b",
        "é\u001b[2J",
    ):
        browser.execute_script("rows.gene_ids[DATA.first] = arguments[0]; pick(DATA.first, false)", name)
        command = browser.find_element(By.ID, "ask").get_attribute("textContent")
        assert command.startswith("rankshift query ")
        listing = f"rankshift() {{ printf '%s\\0' \"$@\"; }}; {command}"
        done = subprocess.run(["sh", "-c", listing], cwd=tmp_path, capture_output=True, text=True, check=True)
        literal = name.replace("'", "''")
        query = f"SELECT cell_id, {data['effect']} AS effect FROM shifts WHERE gene_ids = '{literal}'"
        assert done.stdout.split("\0")[0] == "query"
        assert done.stdout.split("\0")[2:] == [query, ""]
        assert list(tmp_path.iterdir()) == []


def test_headers_sort_numbers_as_numbers(planted, browser):
    shown(browser, planted)
    data = json.loads(browser.execute_script("return document.getElementById('data').textContent"))
    fdr = sorted(v for v in data["table"]["fdr"] if v is not None)
    click(browser, "#table th[data-key='fdr'] button")
    assert [float(v) for v in column(browser, "fdr")] == pytest.approx(fdr[:20], rel=6e-3)
    click(browser, "#table th[data-key='cells'] button")
    most = [int(v.replace(",", "")) for v in column(browser, "cells")]
    assert most == sorted(data["table"]["cells"], reverse=True)[:20]
    header = browser.find_element(By.CSS_SELECTOR, "#table th[data-key='cells']")
    assert header.get_attribute("aria-sort") == "descending"
    header.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)  # by keyboard, the other way round
    assert [int(v) for v in column(browser, "cells")] == sorted(data["table"]["cells"])[:20]


def test_search_finds_a_gene_by_symbol_and_by_id(planted, browser):
    shown(browser, planted)
    search = browser.find_element(By.ID, "search")
    for words, found in (("gene17", "GENE17"), ("ENSG00000000042", "GENE42"), ("<b>g", NASTY)):
        search.clear()
        search.send_keys(words)
        assert found in column(browser, "symbols")
    search.clear()
    search.send_keys("no such gene")
    assert column(browser, "symbols") == []
    assert "nothing of this name was perturbed here" in browser.find_element(By.ID, "count").text


def test_gene_sets_are_in_a_table_and_those_of_few_genes_are_counted(planted, browser):
    shown(browser, planted)
    section = browser.find_element(By.ID, "sets")
    rows = [
        [cell.text for cell in row.find_elements(By.TAG_NAME, "td")]
        for row in section.find_elements(By.CSS_SELECTOR, "tbody tr")
    ]
    assert [row[0] for row in rows] == ["planted", NASTY]
    assert rows[0][1] == "10 of 10"
    assert int(rows[0][2].split()[0]) >= 8
    assert float(rows[0][3]) < 1e-4 < 0.05 < float(rows[1][3])
    assert "1 of 2 gene sets stand out" in section.text
    assert "1 of which fewer than 5 genes were tested" in section.text


def test_a_gene_has_links_that_ask_nobody_until_they_are_clicked(planted, browser):
    shown(browser, planted)
    click(browser, "#table tbody button")
    gene = column(browser, "gene_ids")[0]
    links = browser.find_elements(By.CSS_SELECTOR, "#links a")
    assert [link.get_attribute("href") for link in links[:2]] == [
        f"https://www.ensembl.org/id/{gene}",
        f"https://platform.opentargets.org/target/{gene}",
    ]
    assert {link.get_attribute("rel") for link in links} == {"noopener noreferrer"}


def test_pages_turn_and_hits_can_be_alone(planted, browser):
    shown(browser, planted)
    first = column(browser, "symbols")
    click(browser, "#next")
    assert not set(first) & set(column(browser, "symbols"))
    click(browser, "#hits-only")
    assert 5 <= len(column(browser, "symbols")) <= 20
    assert set(column(browser, "hit")) == {"hit"}


def test_a_hover_shows_the_gene_and_its_numbers(planted, browser):
    shown(browser, planted)
    data = json.loads(browser.execute_script("return document.getElementById('data').textContent"))
    plot = browser.find_element(By.ID, "plot-volcano")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    symbol = data["table"]["symbols"][0]
    offset = browser.execute_script(
        """const plot = document.getElementById('plot-volcano'), box = plot.getBoundingClientRect();
        const trace = plot.data.find((t) => t.meta?.rows.includes(0)), i = trace.meta.rows.indexOf(0);
        const {xaxis, yaxis} = plot._fullLayout, at = (v) => v[i] ?? v._inputArray?.[i];
        return [xaxis._offset + xaxis.d2p(plot.calcdata[trace.index ?? plot.data.indexOf(trace)][i].x) - box.width / 2,
                yaxis._offset + yaxis.d2p(plot.calcdata[plot.data.indexOf(trace)][i].y) - box.height / 2];"""
    )
    ActionChains(browser).move_to_element_with_offset(plot, *(round(v) for v in offset)).perform()
    label = WebDriverWait(browser, 10).until(
        lambda d: d.find_elements(By.CSS_SELECTOR, "#plot-volcano .hoverlayer text")
    )
    text = " ".join(part.text for part in label)
    assert symbol in text
    assert data["table"]["gene_ids"][0] in text
    assert f"cells: {data['table']['cells'][0]}" in text


def test_a_gene_of_the_table_shows_its_cells(planted, browser):
    shown(browser, planted)
    data = json.loads(browser.execute_script("return document.getElementById('data').textContent"))
    row = data["table"]["symbols"].index(NASTY)
    browser.find_element(By.ID, "search").send_keys(NASTY)
    click(browser, "#table tbody button")
    values = browser.execute_script("return Array.from(document.getElementById('plot-gene').data.at(-1).y)")
    assert values == data["genes"][str(row)]["effect"]
    assert browser.find_element(By.ID, "picked").text.startswith(f"{NASTY}: mean ")
    click(browser, "#by option[value='donor']")
    labels = browser.execute_script(
        "return Array.from(new Set(document.getElementById('plot-gene').data.at(-1).x)).sort()"
    )
    assert labels == ["donor0", "donor1"]


@pytest.mark.parametrize("size", [docs.LAPTOP, docs.PHONE], ids=["laptop", "phone"])
@pytest.mark.parametrize("name", ["planted", "toy"])
def test_names_on_the_figures_do_not_cover_each_other(name, size, browser, request):
    shown(browser, request.getfixturevalue(name), size)
    boxes = browser.execute_script(
        """return [...document.querySelectorAll('.plot')].map((plot) =>
            plot.layout?.annotations === undefined ? [] :
            [...plot.querySelectorAll('.annotation')].filter((a) => plot.layout.annotations[a.dataset.index].name === 'gene')
                .map((a) => a.querySelector('.annotation-text').getBoundingClientRect())
                .map((r) => [r.left, r.top, r.right, r.bottom, innerWidth]))"""
    )
    assert sum(len(figure) for figure in boxes) >= 5
    for figure in boxes:
        for i, a in enumerate(figure):
            assert a[0] >= 0
            assert a[2] <= a[4]
            for b in figure[:i]:
                across = min(a[2], b[2]) - max(a[0], b[0])
                along = min(a[3], b[3]) - max(a[1], b[1])
                assert across <= 1 or along <= 3, "line boxes may touch, letters may not"


def test_the_table_is_saved_as_csv(planted, browser):
    shown(browser, planted)
    click(browser, "#csv")
    file = browser.downloads / "run-report.csv"
    stop = time.monotonic() + 10
    while not file.exists() and time.monotonic() < stop:
        time.sleep(0.05)
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    expected = Run.open(planted.parent / "run").sql(
        "SELECT gene_ids, any_value(symbols) AS symbols, avg(shift_goal) AS shift, count(*) AS n FROM shifts GROUP BY 1"
    )
    by_gene = {row["gene_ids"]: row for row in rows}
    for row in expected.to_pylist():
        saved = by_gene[row["gene_ids"]]
        assert saved["symbols"] == row["symbols"]
        assert float(saved["shift_mean"]) == pytest.approx(row["shift"], rel=1e-5)
        assert int(saved["cells"]) == row["n"]


def test_dark_is_dark_and_light_is_light(planted, browser):
    def ground() -> tuple[str, str]:
        return browser.execute_script(
            "return [getComputedStyle(document.querySelector('main > section')).backgroundColor,"
            " document.querySelector('#plot-volcano .main-svg').style.background]"
        )

    shown(browser, planted)
    page, plot = ground()
    assert page == plot == "rgb(255, 255, 255)"
    click(browser, "#theme")
    WebDriverWait(browser, 10).until(lambda d: ground()[0] == ground()[1] == "rgb(22, 29, 38)")
    assert browser.find_element(By.ID, "theme").get_attribute("aria-pressed") == "true"


@pytest.mark.slow
def test_the_system_decides_the_first_theme(tiny):
    with docs.chromium(docs.PHONE, dark=True) as driver:
        driver.get(tiny.as_uri())
        docs.when_drawn(driver)
        assert driver.execute_script("return document.documentElement.dataset.theme") == "dark"
