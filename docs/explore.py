"""Pictures of docs/explore.md: the page over runs in headless Chromium, on a laptop and, dark, on a phone.

Run it from the root of the repository while `rankshift explore delete=RUN overexpress=RUN` runs, with the address that it
prints and a gene to show: python docs/explore.py ADDRESS GENE
"""

import sys
from io import BytesIO
from typing import Any
from urllib.parse import urlencode

from report import LAPTOP, OUT, PHONE, chromium

GENE = "{gene}"
SHOTS = {  # size of the screen, dark, what the address says
    "explore-genes": (LAPTOP, False, {"view": "table"}),
    "explore-gene": (LAPTOP, False, {"view": "gene", "gene": GENE}),
    "explore-cells": (LAPTOP, False, {"view": "cells", "gene": GENE}),
    "explore-compare": (LAPTOP, False, {"view": "compare"}),
    "explore-phone": (PHONE, True, {"view": "gene", "gene": GENE}),
}


def when_shown(driver: Any, wanted: str) -> None:
    """Wait until the page says that all of this address is there."""
    from selenium.webdriver.support.ui import WebDriverWait

    said = "return document.body.dataset.shown === arguments[0] && document.querySelector('main').ariaBusy === 'false'"
    WebDriverWait(driver, 60).until(lambda d: d.execute_script(said, wanted))


def main() -> None:
    """Take the pictures of the page whose address is on the command line."""
    from PIL import Image

    address, gene = sys.argv[1:]
    for name, (size, dark, view) in SHOTS.items():
        with chromium(size, dark=dark) as driver:
            driver.get(address)  # the token becomes a cookie
            wanted = "#" + urlencode({key: value.format(gene=gene) for key, value in view.items()})
            driver.get(driver.current_url.partition("#")[0] + wanted)
            when_shown(driver, wanted)
            picture = Image.open(BytesIO(driver.get_screenshot_as_png())).convert("RGB")
            picture.quantize(128).save(OUT / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
