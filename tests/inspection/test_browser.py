"""The page in a real browser: what a reader sees and can do, and that nothing is loaded, run or reported.

Without an installed Chromium these tests are skipped; with DVPO_REQUIRE_BROWSER=1, as in CI, they fail instead.
"""

import json
import math
import os
import re
import shutil
import time

import pytest
from inspected import ARABIC, HOSTILE, hand_scored
from inspection_reading import LEAST_CONTRAST, cells, check_table, colours, number, numbers_of, shows, token
from playwright.sync_api import sync_playwright

from modeling_dvpo.inspection import inspect_page
from modeling_dvpo.inspection.state_numbers import BANDS, StateNumbers

WORDS = ["The", " sum", " of", " two", " and", " two", " is", " four", ",", " so", "\n", "4", "."]
BROWSERS = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def installed_browser():
    """The system's browser: Playwright's own is never downloaded."""
    if found := next(filter(None, map(shutil.which, BROWSERS)), None):
        return found
    missing = f"there is no browser here ({', '.join(BROWSERS)}); Debian and Ubuntu: apt-get install chromium"
    if os.environ.get("DVPO_REQUIRE_BROWSER") == "1":
        pytest.fail(f"DVPO_REQUIRE_BROWSER is 1, but {missing}")
    pytest.skip(missing)


@pytest.fixture(scope="module")
def window():
    """A browser's window, what it has loaded, and what it has reported: console messages, exceptions, refusals."""
    executable = installed_browser()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        page, loaded, reported = browser.new_page(), [], []
        page.on("request", lambda request: loaded.append(request.url))
        page.on("console", lambda message: reported.append(message.text))
        page.on("pageerror", lambda error: reported.append(str(error)))
        yield page, loaded, reported
        browser.close()


@pytest.fixture
def open_file(window):
    """Opens a file in the window; when it is left, checks that it loaded nothing more and reported nothing."""
    page, loaded, reported = window
    opened = []

    def leave():
        found, problems = loaded.copy(), reported.copy()
        loaded.clear()
        reported.clear()
        assert problems == [] and found == opened[-1:]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it is wider than the window"

    def open_file(path, *, width=1280, height=900, dark=False):
        leave()
        page.mouse.move(0, 0)
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme="dark" if dark else "light")
        opened.append(path.as_uri())
        page.goto(opened[-1])
        return page

    yield open_file
    leave()


@pytest.fixture
def open_page(open_file, tmp_path):
    """Opens the page of these completions, or of one."""

    def open_page(*completions, width=1280, height=900, dark=False, **settings):
        path = tmp_path / f"page{len(list(tmp_path.glob('*.html')))}.html"
        path.write_text(inspect_page([one for one, _ in completions], completions[0][1], **settings), "utf-8")
        return open_file(path, width=width, height=height, dark=dark)

    return open_page


@pytest.fixture
def completion():
    return hand_scored("What is 2 + 2?", WORDS)


def each(page, selector, of="it.textContent"):
    """What JavaScript says of each element."""
    return page.eval_on_selector_all(selector, f"all => all.map(it => {of})")


def focused(page):
    return page.evaluate("+document.activeElement.dataset.state")


def heights(curve):
    """Of the points of a drawn line, in pixels from the top."""
    return [float(y) for y in re.findall(r"[ML][-\d.]+ ([-\d.]+)", curve)]


class TestNumbers:
    def test_pointing_at_a_token_shows_its_numbers_and_leaving_the_selected_ones(self, open_page, completion):
        page = open_page(completion, threshold=0.1)
        [selected] = each(page, ".selected", "+it.dataset.state")
        curve = page.get_attribute(".chart .ensemble", "d")
        check_table(page, completion[0], 0.1, selected)
        other = 4 if selected != 4 else 5
        page.hover(token(other))
        check_table(page, completion[0], 0.1, other)
        assert page.get_attribute(".chart .ensemble", "d") != curve
        page.hover("h1")
        check_table(page, completion[0], 0.1, selected)
        assert page.get_attribute(".chart .ensemble", "d") == curve

    def test_a_click_selects(self, open_page, completion):
        page = open_page(completion, threshold=0.1)
        for state in (3, 0):
            page.click(token(state))
            page.hover("h1")
            check_table(page, completion[0], 0.1, state)

    def test_the_value_after_the_last_token_is_unknown(self, open_page, completion):
        page = open_page(completion, threshold=0.1)
        page.click(token(len(WORDS) + 1))
        check_table(page, completion[0], 0.1, len(WORDS) + 1)
        assert cells(page)["value"][1:] == ("–", "–")
        assert page.locator(".chart .ensemble").count() == 0
        [(classes, said)] = each(page, ".selected", "[it.className, it.ariaLabel]")
        assert "unknown" in classes and "not known" in said

    def test_the_drawn_curve_is_the_distribution(self, open_page, completion):
        page = open_page(completion)
        page.click(token(6))
        quantiles = StateNumbers(completion[0]).ensemble[6]
        # the scale, from the labelled grid lines
        labels = each(page, ".tick.end", "[it.textContent, +it.getAttribute('y')]")
        (first, at), (second, there) = [(number(text), y - 3.5) for text, y in labels][:2]
        places = heights(page.get_attribute(".ensemble", "d"))
        drawn = [first + (y - at) * (second - first) / (there - at) for y in places]
        assert len(drawn) == 41
        expected = [quantiles[max(0, math.ceil(200 * level - 1e-9) - 1)].item() for level in [0.005, 0.5, 0.995]]
        assert [drawn[0], drawn[20], drawn[40]] == pytest.approx(expected, abs=0.01)
        shown = each(page, "[data-list=bands] span")
        expected = [quantiles[math.ceil(200 * level - 1e-9) - 1].item() for level in BANDS]
        assert list(map(number, shown)) == pytest.approx(expected, abs=0.00055)

    def test_each_head_has_its_curve_and_its_mean(self, open_page, completion):
        page = open_page(completion)
        page.click(token(6))
        heads = completion[0].quantiles[6]
        shown = each(page, "[data-list=heads] span")
        assert all(map(shows, shown, heads.mean(-1).tolist())) and len(set(shown)) == 3
        places = [heights(curve)[10] for curve in each(page, ".chart .head", "it.getAttribute('d')")]
        medians = heads[:, 99].tolist()
        assert sorted(range(3), key=lambda head: -places[head]) == sorted(range(3), key=medians.__getitem__)
        assert len(set(places)) == 3

    @pytest.mark.parametrize(
        ("shape", "exact"), [({}, False), ({"quantiles": 5, "heads": 1}, True)], ids=["200 quantiles", "5 quantiles"]
    )
    def test_another_threshold(self, open_page, shape, exact):
        """A critic of few quantiles knows every threshold; of others, the page's quantiles are 2.5 % apart."""
        completion = hand_scored("p", WORDS, **shape)
        page = open_page(completion, threshold=0.1)
        page.click(token(6))
        page.fill("#threshold", "0.3")
        expected = numbers_of(completion[0], 0.3, 6)["chance"]
        assert number(cells(page)["chance"][1]) == pytest.approx(expected, abs=1e-6 if exact else 1.5)
        assert ("≈" in page.inner_text("[data-measure=chance]")) != exact
        assert "0.3" in page.inner_text(".summary")

    def test_a_scalar_critic_has_neither_risk_nor_heads(self, open_page):
        page = open_page(hand_scored("p", WORDS, quantiles=1, heads=1))
        assert each(page, "#modes input", "it.value") == ["value", "change"]
        assert list(cells(page)) == ["value", "chance"]


def choose(page, mode):
    page.check(f"input[value={mode}]", force=True)


class TestColours:
    def test_each_mode_has_its_colours_and_its_scale(self, open_page, completion):
        page = open_page(completion)
        numbers = StateNumbers(completion[0])
        seen = {}
        for mode in ("value", "change", "cvar", "spread", "disagreement"):
            choose(page, mode)
            seen[mode] = colours(page)
            ticks = list(map(number, each(page, "#ticks span")))
            of = getattr(numbers, mode)
            of = of[~of.isnan()]
            ends = [-of.abs().max(), of.abs().max()] if mode == "change" else [of.min(), of.max()]
            assert [ticks[0], ticks[2]] == pytest.approx([end.item() for end in ends], abs=0.00051)
            assert len(page.text_content("#scale-title")) > 15
            weight = each(page, ".token", "+it.style.getPropertyValue('--weight')")[of.argmax() + (mode == "change")]
            expected = 1.0 if mode != "change" else (of.max() / of.abs().max()).item()
            assert weight == pytest.approx(expected, abs=1e-3)
        assert len({json.dumps(one) for one in seen.values()}) == 5
        changes = numbers.change[:-1]
        # oklab's last number is yellow above zero and blue below
        tone = [float(colour.rstrip(")").split()[-1]) for colour in seen["change"]]
        assert tone[1 + changes.argmin()] > 0.03 and tone[1 + changes.argmax()] < -0.03

    def test_themes(self, open_page, completion):
        page = open_page(completion)
        ground = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(ground)
        page.emulate_media(color_scheme="dark")
        dark = page.evaluate(ground)
        assert light != dark
        page.wait_for_selector("#theme:text-is('Light theme')")
        for expected in (light, dark):
            page.click("#theme")
            assert page.evaluate(ground) == expected

    @pytest.mark.parametrize("dark", [False, True])
    def test_text_stands_out_everywhere(self, open_page, completion, dark):
        """WCAG's contrast of text and ground: 4.5 at least, on every step of every scale."""
        page = open_page(completion, dark=dark)
        ramp = (
            "(all, negative) => all.forEach((t, i) => {"
            "t.style.setProperty('--weight', i / (all.length - 1)); t.classList.toggle('negative', negative) })"
        )
        for mode, negative in [("value", False), ("change", False), ("change", True), ("spread", False)]:
            choose(page, mode)
            page.eval_on_selector_all(".token:not(.unknown)", ramp, negative)
            contrast, where = page.evaluate(LEAST_CONTRAST)
            assert contrast >= 4.5, f"{mode}: {where}"


class TestKeys:
    def test_arrows_move_and_change_the_numbers(self, open_page, completion):
        page = open_page(completion, threshold=0.1)
        page.click(token(2))
        page.hover("h1")
        for key, state in [("ArrowRight", 3), ("ArrowRight", 4), ("ArrowLeft", 3), ("End", 14), ("Home", 0)]:
            page.keyboard.press(key)
            assert focused(page) == state
            check_table(page, completion[0], 0.1, state)
        page.keyboard.press("ArrowLeft")
        assert focused(page) == 0
        assert page.evaluate("getComputedStyle(document.activeElement).outlineWidth") == "3px"

    def test_up_and_down_go_by_lines(self, open_page, completion):
        page = open_page(completion)
        page.click(token(0))
        # "4" or ".", after the line break; and nothing is above the first line
        for key, states in [("ArrowDown", (12, 13)), ("ArrowUp", (0, 1)), ("ArrowUp", (0, 1))]:
            page.keyboard.press(key)
            assert focused(page) in states

    def test_tab_goes_from_response_to_response(self, open_page):
        page = open_page(hand_scored("p", WORDS), hand_scored("p", WORDS, seed=1))
        page.click(token(2))
        page.keyboard.press("Tab")
        assert page.locator(".card:nth-child(2) .token:focus").count() == 1

    def test_a_token_says_what_it_is(self, open_page, completion):
        page = open_page(completion)
        page.click(token(4))
        value, change = StateNumbers(completion[0]).value[4].item(), StateNumbers(completion[0]).change[3].item()
        said = page.get_attribute(token(4), "aria-label")
        assert said.replace("−", "-") == f"␣two, value {value:.3f}, change {change:+.3f}"

    def test_in_right_to_left_text_left_is_forward(self, open_page):
        page = open_page(hand_scored("p", ARABIC))
        page.click(token(2))
        for key, state in [("ArrowLeft", 3), ("ArrowRight", 2)]:
            page.keyboard.press(key)
            assert focused(page) == state


class TestText:
    def test_hostile_text_is_shown_and_does_nothing(self, open_page):
        page = open_page(hand_scored(HOSTILE[0], HOSTILE), labels=[HOSTILE[0]])
        assert page.title() == "What the critic expects"
        assert page.locator("img").count() == 0
        assert page.text_content("h2") == HOSTILE[0]
        texts = each(page, ".token")[1:]
        marks = {2: "U+2028U+2029", 3: "aU+D800b", 4: "NUL", 5: "CR\n", 6: "⇥", 7: "U+202EevilU+202C", 13: "U+200B"}
        assert texts[:-1] == [marks.get(i, text) for i, text in enumerate(HOSTILE)]
        assert each(page, ".tokens .mark")[:3] == ["U+2028", "U+2029", "U+D800"]
        assert page.locator(".tokens .line, .tokens .blank").count() == 2
        assert min(each(page, ".token", "it.getClientRects()[0].width")) >= 3, "every token can be seen"
        for state in range(1, len(HOSTILE) + 1):
            page.click(token(state))
            assert len(page.text_content(".details h3")) < 120
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    def test_arabic_runs_from_right_to_left_with_its_letters_joined(self, open_page):
        page = open_page(hand_scored("p", ARABIC))
        places = each(page, ".token", "(box => [box.left, box.right])(it.getClientRects()[0])")
        words = {word: places[state] for state, word in enumerate(ARABIC, 1)}
        assert words["الجواب"][0] >= words[" هو"][1] - 1 and words[" أرب"][0] >= words["عة"][1] - 1
        assert words["Done"][1] <= words[":"][0] + 1 and words["Done"][0] < 200  # a paragraph of its own direction
        assert words["الجواب"][0] > 600 and words["ש"][0] > 600
        assert words["ש"][0] >= words["לו"][1] - 1
        # Letters take other forms where they join: cut by tokens, the word is as wide as whole.
        joined = page.evaluate(
            """() => {
              const width = (it) => it.getBoundingClientRect().width;
              const [a, b] = [4, 3].map((state) => document.querySelector(`[data-state="${state}"]`));
              const whole = document.createElement("span");
              whole.textContent = b.textContent + a.textContent;
              document.querySelector(".tokens").append("\\n", whole);
              const found = [width(a) + width(b), width(whole)];
              whole.remove();
              return found;
            }"""
        )
        assert joined[0] == pytest.approx(joined[1], abs=1.0)

    def test_other_parties_are_grey_and_no_tokens(self, open_page):
        completion = hand_scored("p", ["a", "<user>", "hi", " b", " c"], asides=(1, 2))
        page = open_page(completion, threshold=0.1)
        assert page.text_content(".aside") == "<user>hi"
        assert page.locator(".token").count() == 5
        page.click(token(1))
        assert "Another party" in page.text_content(".details")
        check_table(page, completion[0], 0.1, 1)


class TestLayout:
    def test_responses_stand_side_by_side_where_there_is_room(self, open_page):
        completions = [hand_scored("p", WORDS, seed=seed) for seed in range(3)]
        inside = (
            "(([own, card]) => own.left >= card.left && own.right <= card.right - 10)"
            "([it, it.closest('.card')].map(one => one.getBoundingClientRect()))"
        )
        for width, rows in ((1500, 1), (380, 3)):
            page = open_page(*completions, width=width)
            for part in (".card", ".figure"):
                assert len(set(each(page, part, "it.getBoundingClientRect().top"))) == rows
            assert all(each(page, ".card table, .card svg, .tokens", inside))

    def test_a_shared_prompt_is_shown_once_and_others_with_their_response(self, open_page):
        one, two = hand_scored("p", WORDS), hand_scored("p", WORDS, seed=1)
        assert open_page(one, two).locator(".prompt:not([hidden])").count() == 1
        two[0].input_ids[0] = 1  # the prompt is another word
        assert open_page(one, two).locator(".prompt:not([hidden])").count() == 2

    def test_4000_tokens_do_not_lag(self, open_page):
        completion = hand_scored("p", [f" word{i}" for i in range(4000)])
        start = time.perf_counter()
        page = open_page(completion)
        loaded = time.perf_counter() - start
        now = "performance.now()"
        timed = f"(() => {{ const start = {now}; %s; document.body.offsetHeight; return {now} - start }})()"
        switch = page.evaluate(timed % "document.querySelector('input[value=change]').click()")
        point = page.evaluate(
            timed % "for (let i = 0; i < 50; i++) document.querySelectorAll('.token')[60 * i].dispatchEvent("
            "new PointerEvent('pointerover', { bubbles: true }))"
        )
        print(f"built and loaded in {loaded:.2f} s, mode in {switch:.0f} ms, a token in {point / 50:.1f} ms")
        # generous: a busy machine must not fail it, quadratic work must
        assert loaded < 15 and switch < 1500 and point / 50 < 100
        page.click(token(3999))
        check_table(page, completion[0], float(page.input_value("#threshold")), 3999)

    def test_in_a_notebooks_frame_it_works_as_well(self, open_file, completion, tmp_path):
        path = tmp_path / "notebook.html"
        path.write_text(f"<!doctype html><body>{inspect_page([completion[0]], completion[1])._repr_html_()}", "utf-8")
        page = open_file(path)
        page.frame_locator("iframe").locator(token(3)).click()
        assert page.evaluate("document.querySelector('iframe').offsetHeight") > 700
