#!/usr/bin/env python3
"""Uses the chat page as a person does, in headless Chromium. Run by tests/server/clients.rs; needs the package playwright.

Usage: page_client.py BASE_URL KEY CHROMIUM [FOLDER_FOR_SCREENSHOTS]
"""

import json
import pathlib
import sys
import time

from playwright.sync_api import sync_playwright

base, key, chromium = sys.argv[1:4]
folder = pathlib.Path(sys.argv[4]) if len(sys.argv) > 4 else None
problems = []


def picture(page, name):
    if folder:
        page.screenshot(path=str(folder / f"{name}.png"))


def until(page, expression):
    """Waits for an expression to be true. The page's policy forbids playwright's own way, which compiles text in the page."""
    deadline = time.monotonic() + 120
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"waited in vain: {expression}"
        time.sleep(0.05)


def ask(page, text, wait=True):
    page.keyboard.type(text)
    page.keyboard.press("Enter")
    page.wait_for_selector("article.assistant")
    if wait:
        page.wait_for_selector("#send:visible", timeout=120_000)


def settings(page, **values):
    """Opens the settings by the keyboard alone."""
    page.focus("#open-settings")
    page.keyboard.press("Enter")
    page.wait_for_selector("#settings[open]")
    for name, value in values.items():
        if isinstance(value, bool):
            page.set_checked(f"#{name}", value)
        else:
            page.fill(f"#{name}", str(value))
    picture(page, "settings")
    page.click("#settings button")


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    context = browser.new_context(color_scheme="light", viewport={"width": 900, "height": 700})
    page = context.new_page()
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    elsewhere = []
    page.on("request", lambda request: None if request.url.startswith((base, "data:")) else elsewhere.append(request.url))
    page.goto(base)
    until(page, "document.getElementById('model').textContent.includes('API key')")
    # The refusal is shown to the user; the browser also notes it as an error of its own.
    problems.clear()
    settings(page, key=key, temperature=0, max_tokens=60, system="Answer briefly.")
    until(page, "!document.getElementById('model').textContent.includes('API key')")
    print("settings: ok", flush=True)

    page.focus("#prompt")
    ask(page, "Repeat: one two three one two three one two three one two three")
    answer = page.text_content("article.assistant .text")
    assert answer, "no text"
    assert "tokens per round" in page.text_content("article.assistant .facts")
    assert not page.text_content("#status"), "what stands below the answer is said twice"
    assert "Answer: " in page.text_content("#spoken")
    assert page.evaluate("document.activeElement.id") == "prompt"
    print("type and stream: ok", flush=True)
    settings(page, temperature=0, max_tokens=60)
    page.focus("#prompt")
    ask(page, "Repeat it again, twice.")
    assert page.locator("article.assistant mark").count() > 0, "nothing is marked as drafted"
    picture(page, "light")
    print("drafted tokens: ok", flush=True)

    page.reload()
    page.wait_for_selector("article.assistant")
    assert page.text_content("article.assistant .text") == answer, "the conversation is gone"
    assert page.input_value("#system") == "Answer briefly."
    print("reload: ok", flush=True)

    def endless(route):
        route.continue_(post_data=json.dumps(route.request.post_data_json | {"ignore_eos": True}))

    settings(page, max_tokens="1500", temperature="1.5")
    page.focus("#prompt")
    # A model may end a story before anybody can stop it.
    page.route("**/v1/chat/completions", endless)
    ask(page, "<img src=x onerror=alert(1)> Write a very long story.", wait=False)
    until(page, "document.querySelectorAll('article.assistant').length === 3")
    until(page, "[...document.querySelectorAll('article.assistant .text')].at(-1).textContent.length > 20")
    picture(page, "streaming")
    page.keyboard.press("Escape")
    page.wait_for_selector("#send:visible", timeout=30_000)
    assert "(stopped)" in page.locator("article.assistant .facts").last.text_content()
    assert page.locator("article img").count() == 0, "text became markup"
    page.unroute("**/v1/chat/completions")
    print("stop: ok", flush=True)

    page.emulate_media(color_scheme="dark")
    picture(page, "dark")
    page.set_viewport_size({"width": 380, "height": 700})
    picture(page, "narrow")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it is wider than the window"
    page.click("#open-settings")
    picture(page, "narrow-settings")
    assert page.eval_on_selector("#settings", "(one) => one.scrollWidth <= one.clientWidth"), "the settings are cut off"
    page.click("#settings button")
    settings(page, max_tokens="60", temperature=0)
    page.focus("#prompt")
    ask(page, "Say it in four lines of verse.")
    below = "(log) => log.getBoundingClientRect().bottom - log.querySelector('article:last-child .facts').getBoundingClientRect().bottom"
    assert page.eval_on_selector("#log", below) >= 0, "the end of the answer is out of sight"
    page.click("#clear")
    assert page.locator("article").count() == 0 and page.is_visible("#empty")
    # Everything that can be used has a name for those who do not see it.
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, input, textarea')]"
        ".filter((one) => !one.textContent.trim() && !one.labels?.length).map((one) => one.id)"
    )
    assert not nameless, nameless
    print("dark, narrow, empty: ok", flush=True)
    browser.close()

assert not problems, problems
assert not elsewhere, elsewhere
