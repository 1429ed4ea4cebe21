"""`dvpo inspect`: from text, chats and files to a page and figures, and what it refuses."""

import argparse
import json
import re
import sys

import pytest
import torch
from inspection_reading import data_of, floats
from tiny_critics import tiny_critic
from tiny_models import tiny_config

from modeling_dvpo import AutoModelForDistributionalValue
from modeling_dvpo.inference.scoring import score_completions
from modeling_dvpo.inspection import command
from modeling_dvpo.inspection.response_rows import Response, read_responses, titles
from modeling_dvpo.text.problems import DataError


@pytest.fixture
def saved(tmp_path, tiny_tokenizer):
    """A critic with its tokenizer on disk."""
    config = tiny_config("qwen3", vocab_size=320)
    config.critic_training = {"return_range": [0.0, 3.0]}
    tiny_critic(config=config).save_pretrained(tmp_path / "critic")
    tiny_tokenizer.save_pretrained(tmp_path / "critic")
    return str(tmp_path / "critic")


@pytest.fixture
def run(tmp_path, saved):
    """Runs the command; gives the page's data and the page."""

    def run(*arguments):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        path = tmp_path / "pages" / "page.html"
        command.main(parser.parse_args([saved, "--device", "cpu", "--output", str(path), *arguments]))
        page = path.read_text("utf-8")
        return data_of(page), page

    return run


def write(tmp_path, rows, name="rows.jsonl"):
    path = tmp_path / name
    path.write_text("\n".join(map(json.dumps, rows)) if name.endswith("l") else json.dumps(rows))
    return str(path)


def end_of(response):
    return response["tokens"][-1]


class TestCommand:
    def test_arguments_reach_the_template(self, run, saved, tiny_tokenizer):
        tiny_tokenizer.chat_template += "{% if add_generation_prompt and calm %}hello {% endif %}"
        tiny_tokenizer.save_pretrained(saved)
        given = ["--prompt", "hello", "--response", "world", "--chat"]
        calm, plain = run(*given, "--chat-template-kwargs", '{"calm": true}')[0], run(*given)[0]
        assert calm["responses"] != plain["responses"]
        for wrong in ("[1]", "{calm"):
            with pytest.raises(SystemExit):
                run(*given, "--chat-template-kwargs", wrong)

    def test_text(self, run, saved, tiny_tokenizer, capsys):
        data, page = run("--prompt", "hello", "--response", " world", "--response", " 5", "--alpha", "0.3")
        critic = AutoModelForDistributionalValue.from_pretrained(saved)
        scored = score_completions(critic, tiny_tokenizer, ["hello"] * 2, [" world", " 5"])
        for one, response in zip(scored, data["responses"], strict=True):
            torch.testing.assert_close(floats(response["value"]), one.value[:-1])
            assert end_of(response) == {"special": "<end>"}
        assert data["alpha"] == 0.3 and data["threshold"] == 1.5  # the middle of the returns in training
        assert "2 heads of 5 quantiles, trained on returns from 0 to 3" in page
        assert "2 responses" in capsys.readouterr().out

    def test_cut_off(self, run):
        data, _ = run("--prompt", "hello", "--response", " world", "--truncated", "--threshold", "0.5")
        assert end_of(data["responses"][0]) != {"special": "<end>"} and data["threshold"] == 0.5

    def test_chat(self, run):
        data, _ = run("--prompt", "hello", "--response", "world", "--chat")
        assert data["responses"][0]["prompt"] == ["<s>user: hello<end>", ["line", "\n"], "<s>assistant: "]

    def test_another_tokenizer(self, run, tmp_path, tiny_tokenizer):
        tiny_tokenizer.eos_token = "<pad>"
        tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
        data, _ = run("--prompt", "hello", "--response", " world", "--tokenizer", str(tmp_path / "tokenizer"))
        assert end_of(data["responses"][0]) == {"special": "<pad>"}

    def test_rows(self, run, tmp_path, capsys):
        messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "world"}]
        rows = [
            {"prompt": "hello", "completion": " world", "reward": 1, "truncated": True},
            {"prompt": "hello", "completions": [" 5", " 2"], "rewards": [0.5, None]},
            {"messages": messages},
            {"prompt": messages[:1], "completion": messages[1:], "tools": [{"type": "function"}]},
            {"prompt": "hello", "completion": " world"},
        ]
        data, page = run("--file", write(tmp_path, rows), "--limit", "5")
        labels = [f"hello ({i} of 5)" for i in range(1, 6)]
        assert [response["label"] for response in data["responses"]] == labels
        assert [response["reward"] for response in data["responses"]] == [1.0, 0.5, None, None, None]
        ends = [end_of(response) == {"special": "<end>"} for response in data["responses"]]
        assert ends == [False, True, True, True, True]
        assert data["responses"][3]["tokens"] == data["responses"][4]["tokens"]
        assert "the first 5 of 6 responses" in page and "1 more responses" in capsys.readouterr().out

    def test_titles(self, run, tmp_path):
        """Responses of a file were "Row 0", "Row 1"."""
        parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "2?"}]
        chat = [{"role": "system", "content": "Be short."}, {"role": "user", "content": parts}]
        prompts = ["hello\n world", "hello " * 20, chat]
        rows = [{"prompt": prompt, "completion": " 5"} for prompt in prompts]
        assert titles(read_responses(write(tmp_path, rows), 8)[0]) == [
            "hello world", ("hello " * 7)[:39] + "…", "What is 2?",
        ]  # fmt: skip
        path = write(tmp_path, rows[:2])
        given = ["--title", "first", "--title", "second"]
        assert [response["label"] for response in run("--file", path, *given)[0]["responses"]] == ["first", "second"]
        with pytest.raises(DataError, match="2 --title for 1 responses"):
            run("--prompt", "hello", "--response", " world", *given)

    def test_figures(self, run, tmp_path, capsys):
        png, svg = tmp_path / "new" / "figure.png", tmp_path / "figure.svg"
        run("--prompt", "hello", "--response", " world", "--png", str(png), "--svg", str(svg), "--show", "change")
        assert png.read_bytes().startswith(b"\x89PNG")
        assert re.match(r"<\?xml.*<svg", svg.read_text(), re.S)
        assert str(png) in capsys.readouterr().out

    def test_a_page_needs_no_matplotlib(self, run, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        run("--prompt", "hello", "--response", " world")
        with pytest.raises(ImportError, match="Figures need matplotlib"):
            run("--prompt", "hello", "--response", " world", "--png", "figure.png")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "Give --prompt"),
            (["--prompt", "a", "--file", "b"], "Give --prompt"),
            (["--prompt", "a"], "needs at least one --response"),
            (["--response", "a"], "needs at least one --response"),
            (["--file", "a", "--chat"], "are for --response"),
            (["--prompt", "a", "--response", ""], "Response 1.*empty completion"),
            (["--prompt", "a", "--response", "\ud800"], r"Response 1 holds a lone surrogate \(U\+D800\)"),
        ],
    )
    def test_refusals(self, run, arguments, message):
        with pytest.raises(DataError, match=message):
            run(*arguments)

    def test_a_model_without_heads_is_refused(self, run, saved, tmp_path):
        config = json.loads((tmp_path / "critic" / "config.json").read_text())
        for name in ("num_value_heads", "num_quantiles"):
            del config[name]
        (tmp_path / "critic" / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match="is no critic.*would be random"):
            run("--prompt", "hello", "--response", " world")


class TestRows:
    def test_forms(self, tmp_path):
        row = {"prompt": "a", "completion": "b"}
        expected = ([Response("a", "b", "Row 0")], 1)
        assert read_responses(write(tmp_path, [row]), 8) == expected
        assert read_responses(write(tmp_path, [row], "rows.json"), 8) == expected
        assert read_responses(write(tmp_path, row, "row.json"), 8) == expected
        (tmp_path / "odd.jsonl").write_text('\ufeff\n{"prompt": "a", "completion": "\u2028"}\n\n', "utf-8")
        assert read_responses(tmp_path / "odd.jsonl", 8)[0][0].completion == "\u2028"

    def test_step_rewards_are_summed(self, tmp_path):
        rows = [{"prompt": "a", "completion": "b", "reward": [0.5, 0.25], "step_ends": [1, 2]}]
        assert read_responses(write(tmp_path, rows), 8)[0][0].reward == 0.75

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"prompt": "a"}, "Row 1 has 'prompt': it needs"),
            ({}, "Row 1 has nothing"),
            ([], "Row 1 is \\[\\]"),
            ({"completion": "a"}, "Row 1 has a completion and no prompt"),
            ({"prompt": "a", "completions": []}, "Row 1: completions"),
            ({"prompt": "a", "completions": ["a"], "rewards": [1, 2]}, "for 1 completions"),
            ({"prompt": "a", "completion": "a", "reward": "1"}, "Row 1: reward is '1'"),
            ({"messages": "a"}, "Row 1: messages is 'a'"),
            ({"messages": [{"role": "user", "content": "a"}]}, "no message is the assistant's"),
        ],
    )
    def test_refusals(self, tmp_path, row, message):
        path = write(tmp_path, [{"prompt": "a", "completion": "b"}, row])
        with pytest.raises(DataError, match=message):
            read_responses(path, 8)

    @pytest.mark.parametrize(
        ("name", "text", "limit", "message"),
        [
            ("bad.jsonl", '{"prompt": "a", "completion": "b"}\n{"prompt"\n', 8, r"bad.jsonl is no JSON \(in row 1\)"),
            ("bad.json", "{", 8, "bad.json is no JSON: "),
            ("empty.jsonl", "\n", 8, "has no rows"),
            ("empty.jsonl", "\n", 0, "limit is 0"),
        ],
    )
    def test_what_is_no_file_of_rows(self, tmp_path, name, text, limit, message):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=message):
            read_responses(tmp_path / name, limit)
        with pytest.raises(OSError):
            read_responses(tmp_path / "none.jsonl", 8)
