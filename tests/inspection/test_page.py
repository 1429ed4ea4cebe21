"""The page's data against the critic's own numbers, its safety as a file, and the figure."""

import base64
import hashlib
import html
import re
from importlib.resources import files

import pytest
import torch
from inspected import ARABIC, HOSTILE, Words, hand_scored
from inspection_reading import data_of, floats, quantiles
from tiny_critics import tiny_critic
from tiny_models import tiny_config

from modeling_dvpo.critic.quantiles import cvar, value_at_risk
from modeling_dvpo.inference.scoring import ScoredCompletion, score_completions
from modeling_dvpo.inspection import inspect_page, plot_responses
from modeling_dvpo.inspection.figure import COLOURS, INK, MEAN, QUIET, TAIL
from modeling_dvpo.inspection.state_numbers import StateNumbers


def atoms(rows):
    """A completion of three action tokens after one of prompt, with these quantiles (3, N, M) before each of them;
    after the last, where no critic is trained, they are no numbers."""
    states = torch.tensor(rows, dtype=torch.float32)
    states = torch.cat([states, torch.full_like(states[:1], torch.nan)])
    return ScoredCompletion([0, 1, 2, 3], [1, 2, 3], states), Words(["p", "a", "b"])


class TestNumbers:
    def test_by_hand(self):
        # Heads [0, 1, 2, 5] and [4, 3, 2, 1] (crossed): the mean by index is [2, 2, 2, 3], sorted.
        scored, _ = atoms([[[0, 1, 2, 5], [4, 3, 2, 1]], [[1, 1, 1, 1], [1, 1, 1, 1]], [[0, 0, 0, 8], [0, 0, 0, 0]]])
        numbers = StateNumbers(scored, alpha=0.5)
        assert numbers.ensemble.tolist() == [[2, 2, 2, 3], [1, 1, 1, 1], [0, 0, 0, 4]]
        assert numbers.value.tolist() == [2.25, 1.0, 1.0]
        assert numbers.change[:2].tolist() == [-1.25, 0.0]
        assert numbers.cvar.tolist() == [2.0, 1.0, 0.0]
        torch.testing.assert_close(numbers.spread, torch.tensor([0.1875**0.5, 0, 3**0.5], dtype=torch.float64))
        # Means of heads: 2 and 2.5; 1 and 1; 2 and 0.
        assert numbers.disagreement.tolist() == [0.25, 0.0, 1.0]
        assert numbers.chance(2.0).tolist() == [0.25, 0.0, 0.25]
        # Levels 5, 25, 50, 75, 95 % of four atoms: the 1st, 1st, 2nd, 3rd, 4th.
        assert numbers.bands().tolist() == [[2, 2, 2, 2, 3], [1] * 5, [0, 0, 0, 0, 4]]

    def test_the_state_after_the_last_token_is_not_known(self):
        """Whatever that token is: of a response that was cut off, or that another token than the tokenizer's ends, a
        state was shown that no critic was trained in."""
        numbers = StateNumbers(atoms([[[0.0]], [[1.0]], [[9.0]]])[0])
        assert numbers.value.tolist() == [0.0, 1.0, 9.0]
        assert numbers.change[:2].tolist() == [1.0, 8.0] and numbers.change[2].isnan()

    def test_numbers_that_are_not_finite_are_refused_but_after_the_end(self):
        rows = [[[0.0]], [[float("nan")]], [[1.0]]]
        with pytest.raises(ValueError, match="before token 1 of a completion are not finite"):
            StateNumbers(atoms(rows)[0])
        StateNumbers(atoms([[[0.0]], [[1.0]], [[1.0]]])[0])


class TestPage:
    def test_its_data_are_the_critics_numbers(self, tiny_tokenizer):
        config = tiny_config("qwen3", vocab_size=320)
        critic = tiny_critic(config=config, num_value_heads=3, num_quantiles=100)
        scored = score_completions(critic, tiny_tokenizer, ["hello", "What"], [" world hello", " is 2?"])
        data = data_of(inspect_page(scored, tiny_tokenizer, rewards=[0.5, None], alpha=0.2, threshold=0.25))
        assert [response["reward"] for response in data["responses"]] == [0.5, None]
        for one, response in zip(scored, data["responses"], strict=True):
            ids = one.input_ids
            outputs = critic(input_ids=torch.tensor([ids])).quantiles[0].detach().double()
            known = outputs[one.action_positions[0] - 1 : len(ids) - 1]  # the one at the end token is not
            ensemble = known.mean(1).sort(-1).values
            assert response["known"] == len(known) == len(one.action_positions)
            close = {"atol": 1e-5, "rtol": 0, "check_dtype": False}
            torch.testing.assert_close(floats(response["value"]), ensemble.mean(-1), **close)
            torch.testing.assert_close(floats(response["cvar"]), cvar(ensemble, 0.2), **close)
            torch.testing.assert_close(floats(response["spread"]), ensemble.std(-1, correction=0), **close)
            heads = known.mean(-1)
            torch.testing.assert_close(floats(response["headValues"]), heads.flatten(), **close)
            torch.testing.assert_close(floats(response["disagreement"]), heads.std(-1, correction=0), **close)
            torch.testing.assert_close(floats(response["chance"]), (ensemble > 0.25).double().mean(-1), **close)
            rounded = {**close, "atol": data["step"] / 2 + 1e-5}
            for text, levels, of in (
                (response["fan"], data["levels"], ensemble),
                (response["headFans"], data["headLevels"], known.sort(-1).values),
                (response["bandQuantiles"], data["bands"], ensemble),
            ):
                expected = torch.stack([value_at_risk(of, level) for level in levels], -1)
                torch.testing.assert_close(quantiles(text, data), expected.flatten(), **rounded)
        assert len(data["levels"]) == 41 and len(data["headLevels"]) == 21

    def test_few_quantiles_are_kept_all(self):
        scored, tokenizer = hand_scored("p", ["a", "b"], quantiles=5)
        data = data_of(inspect_page([scored], tokenizer))
        assert data["levels"] == data["headLevels"] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])

    def test_another_partys_words_are_aside(self):
        scored, tokenizer = hand_scored("p", ["a", "<user>", "hi", "b"], asides=(1, 2))
        [response] = data_of(inspect_page([scored], tokenizer))["responses"]
        assert response["prompt"] == ["p"]
        assert response["tokens"] == ["a", {"aside": ["<user>hi"]}, "b", {"special": "<end>"}]
        assert response["known"] == 3

    def test_hostile_text_stays_text(self):
        scored, tokenizer = hand_scored(HOSTILE[0], HOSTILE)
        page = inspect_page([scored], tokenizer, labels=[HOSTILE[0]], title=HOSTILE[0], note=HOSTILE[3])
        page.encode("ascii", "xmlcharrefreplace").decode()  # nothing that cannot be written
        page.encode()
        assert page.count("<img") == 0 and page.count("<!--") == 0 and page.count("</script>") == 2
        data = data_of(page)
        tokens = data["responses"][0]["tokens"]
        assert data["responses"][0]["label"] == tokens[0] == HOSTILE[0]
        assert tokens[3] == {"pieces": ["a", ["mark", "U+D800"], "b"]}
        assert "@DATA@ @SCRIPT@" in tokens

    def test_only_its_own_code_may_run_and_nothing_may_be_loaded(self):
        scored, tokenizer = hand_scored("p", ["a"])
        page = inspect_page([scored], tokenizer)
        [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
        directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
        assert directives["default-src"] == "'none'"
        for name, tag in (("script-src", "script"), ("style-src", "style")):
            [code] = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.S)
            digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
            assert directives[name] == f"'sha256-{digest}'"
        without_svg_name = page.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|@import|url\(|innerHTML|\bstyle=|\son\w+=", without_svg_name)

    def test_4000_tokens_take_less_than_3_mb(self):
        scored, tokenizer = hand_scored("p", [f" word{i}" for i in range(4000)])
        assert len(inspect_page([scored], tokenizer).encode()) < 3e6

    def test_in_a_notebook_it_is_a_frame_of_its_own(self):
        scored, tokenizer = hand_scored("p", ['a"'])
        page = inspect_page([scored], tokenizer)
        frame = page._repr_html_()
        [inside] = re.findall(r'srcdoc="([^"]*)"', frame)
        assert html.unescape(inside) == page
        assert 'sandbox="allow-scripts"' in frame

    def test_a_critic_of_one_return(self):
        scored, tokenizer = atoms([[[1.0]], [[1.0]], [[1.0]]])
        data = data_of(inspect_page([scored], tokenizer))
        assert data["step"] == 0 and data["levels"] == [0.5] and data["threshold"] == 1.0

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"labels": ["a"]}, "2 completions, 1 labels and 2 rewards"),
            ({"rewards": [1.0]}, "2 completions, 2 labels and 1 rewards"),
            ({"threshold": float("inf")}, "threshold is inf"),
            ({"alpha": 0.0}, "alpha"),
        ],
    )
    def test_refusals(self, change, message):
        scored, tokenizer = hand_scored("p", ["a"])
        with pytest.raises(ValueError, match=message):
            inspect_page([scored, scored], tokenizer, **change)

    def test_nothing_and_two_critics_are_refused(self):
        scored, tokenizer = hand_scored("p", ["a"])
        other, _ = hand_scored("p", ["a"], quantiles=5)
        with pytest.raises(ValueError, match="nothing to show"):
            inspect_page([], tokenizer)
        with pytest.raises(ValueError, match=r"\[\(3, 5\), \(3, 200\)\] on one page"):
            inspect_page([scored, other], tokenizer)


class TestFigure:
    @pytest.mark.parametrize("colour", COLOURS)
    def test_tokens_have_the_colour_of_their_number(self, colour):
        scored, tokenizer = hand_scored("p", [f" word{i}" for i in range(30)])
        figure = plot_responses([scored], tokenizer, colour=colour)
        tokens, fan, bar = figure.axes
        numbers = StateNumbers(scored)
        known = numbers.change[:-1] if colour == "change" else getattr(numbers, colour)[1:]
        boxes = sorted(tokens.patches, key=lambda box: (box.get_y(), box.get_x()))
        assert len(boxes) == len(known) == 30  # none for the end token
        lightness = torch.tensor([sum(box.get_facecolor()[:3]) for box in boxes])
        known = known.abs() if colour == "change" else known
        assert lightness[known.argmax()] == lightness.min()
        assert lightness[known.argmin()] > lightness.median()
        line = next(line for line in fan.lines if line.get_label() == "mean")
        assert line.get_ydata().tolist() == numbers.value.tolist()
        assert COLOURS[colour][0] == bar.get_title()

    def test_long_and_odd_texts(self, tmp_path):
        long, tokenizer = hand_scored("p", ["$x_1$ and $", *[f" word{i}" for i in range(2000)]])
        figure = plot_responses([long], tokenizer)
        texts = [text.get_text() for text in figure.axes[0].texts]
        drawn = len(figure.axes[0].patches)  # none of these words is broken
        assert 300 < drawn < 2000 and len(texts) == drawn + 1
        assert texts[-1] == f"… {2002 - drawn} more tokens"
        assert len(next(line for line in figure.axes[1].lines if line.get_label() == "mean").get_ydata()) == 2002
        figure.savefig(tmp_path / "long.svg")
        for words in (HOSTILE, ARABIC):
            scored, tokenizer = hand_scored(words[0], words)
            plot_responses([scored], tokenizer, labels=[words[0]]).savefig(tmp_path / "odd.png")

    def test_prompt_and_reward_are_there(self):
        """A figure had neither, and the title "Row 0"."""
        (first, tokenizer), (second, _) = hand_scored("What is $2$?", ["a"]), hand_scored("What is $2$?", ["b"])

        def said(scored, **options):
            return [text.get_text() for text in plot_responses(scored, tokenizer, **options).texts]

        end = f"expects {StateNumbers(first).value[-1].item():.3g} at its end".replace("-", "−")
        assert said([first], labels=["x"], rewards=[-0.25]) == ["x", f"reward −0.25, {end}", "What is $2$?"]
        assert said([first], labels=["x" * 99])[0] == "x" * 50 + "…"  # room for what stands beside it
        assert said([first]) == ["Response 1", end, "What is $2$?"]
        both = said([first, second], rewards=[1, None])
        assert both[:3] == ["What is $2$?", "Response 1", f"reward 1, {end}"]
        assert both.count("What is $2$?") == 1 and len(both) == 5  # one prompt of both
        long, tokenizer = hand_scored("\n".join(f"line {i}" for i in range(9)), ["a"])
        assert said([long])[2:] == ["… line 6", "line 7", "line 8"]

    def test_words_from_right_to_left_are_laid_out_so(self):
        scored, tokenizer = hand_scored("p", ["של", "ום", "\n", "to", " be"])
        texts = plot_responses([scored], tokenizer).axes[0].texts
        places = {text.get_text(): text.get_position()[0] for text in texts}
        assert places["של"] > places["ום"] > places["⏎"] and places["to"] < places[" be"]

    def test_refusals(self):
        scored, tokenizer = hand_scored("p", ["a"])
        with pytest.raises(ValueError, match="one of value, change"):
            plot_responses([scored], tokenizer, colour="red")
        with pytest.raises(ValueError, match="nothing to draw"):
            plot_responses([], tokenizer)
        with pytest.raises(ValueError, match="1 completions, 2 labels and 1 rewards"):
            plot_responses([scored], tokenizer, labels=["a", "b"])


def test_page_and_figure_have_the_same_colours():
    style = files("modeling_dvpo.inspection").joinpath("page.css").read_text()
    light = set(re.findall(r"light-dark\((#\w+),", style))
    used = {end for _, ends in COLOURS.values() for end in ends} | {INK, QUIET, MEAN, TAIL}
    assert used <= light
