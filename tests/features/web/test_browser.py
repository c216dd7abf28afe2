"""The pages in headless Chromium: console, requests, accessibility, keyboard."""

import pytest

pytestmark = pytest.mark.slow
PAGES = ("/", "/tiny-set/", "/tiny-set/contents", "/tiny-set/images/0",
         "/tiny-set/images/1?compare=tiny-set-2")  # fmt: skip


@pytest.mark.parametrize("path", PAGES)
def test_pages_are_clean(running, open_page, path):
    assert open_page(running.url + path).faults() == []


def test_an_image_by_keyboard_alone(running, open_page):
    visit = open_page(running.url + "/tiny-set/images/0")
    page = visit.page
    stops = visit.tab_stops()
    for wanted in ("a: Skip", "a: Contents", "input: Image id", "a: Next", "button: man ride bike",
                   "button: person", "input: confidence", "summary: Parse"):  # fmt: skip
        assert any(stop.startswith(wanted) for stop in stops), (wanted, stops)
    lit = "[data-box].lit"
    page.locator(".triplet").first.focus()
    assert page.locator(lit).evaluate_all("all => all.map(one => one.dataset.box).sort()") == [
        "0",
        "1",
    ]
    assert page.locator(".union.lit").count() == 1
    assert page.locator(".arrow.lit").is_visible()
    page.keyboard.press("Enter")  # keeps them lit
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    assert page.locator(".triplet").first.get_attribute("aria-pressed") == "true"
    page.locator("body").press("ArrowRight")
    page.wait_for_url("**/images/1")


def test_the_focus_shows_what_the_pointer_shows(running, open_page):
    page = open_page(running.url + "/tiny-set/images/0").page
    page.locator("summary", has_text="Parse").nth(1).click()
    shown = page.evaluate(_LIGHTS)
    assert len(shown) > 8
    assert {one["kind"] for one in shown} == {"BUTTON", "g"}  # chips, words of a parse
    for one in shown:
        assert one["pointer"] == one["focus"], one
    assert sum(bool(one["focus"]) for one in shown) > 5
    word = page.locator(".word[data-boxes]").first
    word.focus()
    page.keyboard.press("Enter")  # keeps it lit
    page.evaluate("document.activeElement.blur()")
    assert word.get_attribute("aria-pressed") == "true"
    assert page.locator("[data-box='0'].lit").count() == 1


# what is lit by the pointer and by the focus, for everything that names boxes
_LIGHTS = """() => {
  const lit = () => [...document.querySelectorAll(".overlay .lit")]
    .map((one) => one.dataset.box || one.dataset.link).join();
  const names = [...document.querySelectorAll("[data-boxes]")];
  return names.filter((one) => one.checkVisibility()).map((one) => {
    document.activeElement.blur();
    one.dispatchEvent(new Event("pointerenter"));
    const pointer = lit();
    one.dispatchEvent(new Event("pointerleave"));
    one.focus();
    const focus = document.activeElement === one ? lit() : "no focus";
    return {kind: one.tagName, pointer, focus};
  });
}"""


def test_hover_and_slider(running, open_page):
    page = open_page(running.url + "/tiny-set/images/0").page
    page.get_by_role("button", name="bicycle", exact=False).first.hover()
    assert page.locator("[data-box='1'].lit").count() == 1
    assert page.locator("[data-box='0'].lit").count() == 0
    slider = page.locator("[data-slider=box]")
    slider.fill("0.85")
    assert page.locator("[data-count=box]").text_content() == "1 of 3"
    assert page.locator("[data-box='1']").get_attribute("class").endswith("off")
    slider.dispatch_event("change")
    assert page.url.endswith("?confidence=0.85")


def test_a_filter_is_set_and_removed(running, open_page):
    page = open_page(running.url + "/tiny-set/").page
    page.keyboard.press("/")
    page.keyboard.type("man - ride - *")
    page.keyboard.press("Enter")
    page.wait_for_url("**/tiny-set/?find=*")
    assert page.locator("h1").text_content() == "1 image"
    page.select_option("select[name=split]", "val")
    page.wait_for_url("**split=val*")
    assert "confidence" not in page.url  # what was not changed stays out of the URL
    page.get_by_role("link", name="Clear").click()
    page.wait_for_url("**/tiny-set/")
    assert page.locator("h1").text_content() == "3 images"
