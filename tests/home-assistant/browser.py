"""Uses the newest Home Assistant in a browser, as a person does."""

import json
from contextlib import contextmanager

from checks import ok, scene
from made import fan_mended
from playwright.sync_api import expect as page_shows
from playwright.sync_api import sync_playwright
from scenes import CYCLE, all_show, journal_is, start_over
from world import HOME_ASSISTANT, until

# The browser runs as root, without another network, and must download and keep nothing.
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT = 60_000  # milliseconds: the first page of a fresh installation takes long


@contextmanager
def page_of(home, path, work, size=(470, 616), scale=1.5):
    """The page after the login: writes the tokens to where the login page writes them."""
    tokens = json.dumps(json.dumps({**home.tokens, "expires": 4102444800000}))
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch_persistent_context(
            str(work / f"browser-{home.folder.name}"),
            executable_path="/usr/bin/chromium",
            args=OPTIONS,
            viewport={"width": size[0], "height": size[1]},
            device_scale_factor=scale,
        )
        chromium.set_default_timeout(TIMEOUT)
        page = chromium.pages[0]
        page.add_init_script(f"localStorage.setItem('hassTokens', {tokens})")
        page.goto(HOME_ASSISTANT + path)
        try:
            yield page
        except BaseException:
            page.screenshot(path=str(work.parent / "browser-failed.png"))
            raise
        finally:
            chromium.close()


def press(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def answer(page, name):
    """Answers the confirmation, which must be there."""
    dialog = page.locator("dialog-box")
    dialog.get_by_text(name, exact=True).click()


def dashboard(home, bmc, sidecar, work, picture):
    scene("The dashboard, in a browser")
    start_over(home, bmc, 1)
    with page_of(home, "/server-power/server", work) as page:
        page_shows(page.get_by_text("Force off", exact=True)).to_be_visible(timeout=TIMEOUT)
        all_show(home, "on")
        if picture:
            page.wait_for_timeout(3000)  # wait for icons and fonts
            page.screenshot(path=picture)
            ok(f"picture: {picture}")

        for name, expected in {"Force off": ["power 0"], "Power cycle": CYCLE, "Reset": ["reset 1"]}.items():
            start_over(home, bmc, 1)
            press(page, name)
            answer(page, "Cancel")
            journal_is(bmc, f"{name}, cancelled", [])
            press(page, name)
            answer(page, "OK")
            journal_is(bmc, f"{name}, confirmed", expected)
        start_over(home, bmc, 0)
        press(page, "Power on")
        journal_is(bmc, "Power on", ["power 1"])
        start_over(home, bmc, 1, shutdown_takes=8)
        press(page, "Shut down")
        journal_is(bmc, "Shut down", ["shutdown 1"])
        page_shows(page.get_by_text("Shutting down")).to_be_visible()
        ok("it shows that the server is shutting down")
        all_show(home, "off")
        page_shows(page.get_by_text("Shutting down")).to_have_count(0)
        ok("and not any more after the shutdown")

        sidecar.start(bmc, BMC_PASSWORD="not-the-password")
        home.read_again()
        page_shows(page.get_by_text("bmc_bad_password")).to_be_visible()
        ok("it shows the code of a wrong BMC password")
        sidecar.start(bmc)
        home.read_again()
        all_show(home, "off")


PHONE = 412  # pixels wide


def made(home, servers, work, picture):
    """Begins with a fan that failed."""
    scene("The made dashboard on a telephone, in a browser")
    with page_of(home, "/made-servers/nas", work, (PHONE, 2000), 1) as page:
        page_shows(page.get_by_text("Fan 2 (Lower Non-Recoverable)")).to_be_visible(timeout=TIMEOUT)
        box, power = page.locator("ha-alert").bounding_box(), page.get_by_text("Force off", exact=True).bounding_box()
        assert box["y"] < power["y"], (box, power)
        ok("the fan that failed is at the top")
        if picture:
            take(page, picture.with_name("made-dark.png"), "dark")
        fan_mended(home, servers)
        page_shows(page.locator("ha-alert")).to_have_count(0)
        ok("no box without a fault")
        for text in ("Watts", "Energy", "CPU1 Temp", "Fan 6", "PS1 Current", "Fan Duty"):
            page_shows(page.get_by_text(text, exact=True).locator("visible=true").first).to_be_visible()
        ok("watts, energy, temperatures, fans and the rest are shown")
        page_shows(page.locator("hui-error-card")).to_have_count(0)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE, width
        ok(f"nothing is wider than {PHONE} pixels")
        press(page, "Identify on")
        if picture:
            take(page, picture.with_name("made-light.png"), "light")
        page.get_by_role("tab", name="Rack").click()
        page_shows(page.get_by_text("150", exact=True)).to_be_visible()
        ok("the other server has its own tab")


def take(page, path, scheme):
    page.emulate_media(color_scheme=scheme)
    page.wait_for_timeout(5000)  # wait for icons, fonts and curves
    page.screenshot(path=path)
    ok(f"picture: {path}")


def of_years_ago(home, bmc, work):
    scene("The old entities card, in a browser")
    bmc.settle_in(1)
    with page_of(home, "/home-of-years-ago/server", work) as page:
        until("the attribute raw_output", lambda: "Chassis Power is" in page.locator("body").aria_snapshot(), 60)
        ok("the attribute raw_output is shown")
        press(page, "Reset")
        journal_is(bmc, "the button Reset", ["reset 1"])
        bmc.settle_in(1)
        press(page, "Cycle")
        answer(page, "OK")
        journal_is(bmc, "the button Cycle, confirmed", CYCLE)
