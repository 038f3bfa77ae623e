"""Pictures of docs/report.md: a report in headless Chromium, on a laptop in both themes and on a phone.

Run it from the root of the repository, with Debian's chromium and chromium-driver: python docs/report.py REPORT.html
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent / "img"
LAPTOP, PHONE = (1366, 768), (390, 844)
SHOTS = {  # size of the screen, dark, height of the picture
    "report-light": (LAPTOP, False, 1560),
    "report-dark": (LAPTOP, True, 1560),
    "report-phone": (PHONE, False, 1750),
}


def missing() -> str | None:
    """Why no browser can be started here, or None."""
    lacking = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"no {' and no '.join(lacking)}: apt-get install chromium chromium-driver" if lacking else None


@contextmanager
def chromium(size: tuple[int, int], *, dark: bool = False, downloads: Path | None = None) -> Iterator[Any]:
    """A headless Chromium with a screen of `size` pixels, a phone below 600, that records its console and its requests."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    if downloads is not None:
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        screen(driver, size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        yield driver
    finally:
        driver.quit()


def screen(driver: Any, size: tuple[int, int]) -> None:
    """Give the page a screen of `size` pixels."""
    shape = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)


def when_drawn(driver: Any) -> None:
    """Wait until every figure of the page is drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    drawn = (
        "return [...document.querySelectorAll('.plot:not([hidden])')].every((plot) => plot.querySelector('.main-svg'))"
    )
    WebDriverWait(driver, 60).until(lambda d: d.execute_script(drawn))


def main() -> None:
    """Take the pictures of the report named on the command line."""
    from io import BytesIO

    from PIL import Image

    report = Path(sys.argv[1]).resolve()
    for name, (size, dark, height) in SHOTS.items():
        with chromium(size, dark=dark) as driver:
            driver.get(report.as_uri())
            screen(driver, (size[0], height))  # a longer screen, so that one picture shows several sections
            when_drawn(driver)
            picture = Image.open(BytesIO(driver.get_screenshot_as_png())).convert("RGB")
            picture.quantize(128).save(OUT / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
