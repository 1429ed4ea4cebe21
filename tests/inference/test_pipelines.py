"""The pipeline's numbers against `score_completions`; every form of input; batches."""

import pytest
import torch
from tiny_critics import tiny_critic
from tiny_models import tiny_config
from torch.testing import assert_close
from transformers import pipeline
from transformers.pipelines import PIPELINE_REGISTRY

import modeling_dvpo.inference.pipelines as pipelines
from modeling_dvpo import score_completions
from modeling_dvpo.metrics.scores import head_disagreement

PAIR = {"prompt": "What is 2 + 3?", "completion": " The answer is 5."}
CHAT = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "world"},
    {"role": "user", "content": "What is 2 + 3?"},
    {"role": "assistant", "content": "5"},
]


@pytest.fixture(scope="module")
def critic():
    return tiny_critic(config=tiny_config("qwen3", vocab_size=320))


@pytest.fixture
def reader(critic, tiny_tokenizer):
    return pipeline("distributional-value", model=critic, tokenizer=tiny_tokenizer, device="cpu")


def test_importing_the_package_makes_the_task_known():
    assert "distributional-value" in PIPELINE_REGISTRY.get_supported_tasks()
    pipelines.register()  # again, and transformers does not warn of it
    assert PIPELINE_REGISTRY.check_task("distributional-value")[1]["impl"] is pipelines.DistributionalValuePipeline


def test_every_state_of_a_completion(reader, critic, tiny_tokenizer):
    told = reader(PAIR, risk=["cvar=0.4", "spread", "disagreement"], levels=[0.2, 1.0])
    [scored] = score_completions(critic, tiny_tokenizer, [PAIR["prompt"]], [PAIR["completion"]])
    states, ensemble = len(scored.action_positions) + 1, scored.quantiles.mean(1).sort(-1).values
    assert "".join(told["tokens"]) == " The answer is 5.<end>"
    assert_close(torch.tensor(told["value"]), scored.value)
    assert_close(torch.tensor(told["quantiles"]), ensemble[:, [0, 4]])
    assert told["levels"] == [0.2, 1.0]
    risk = {name: torch.tensor(numbers) for name, numbers in told["risk"].items()}
    assert_close(risk["cvar=0.4"], ensemble[:, :2].mean(-1))
    assert_close(risk["spread"], ensemble.std(-1, correction=0))
    assert_close(risk["disagreement"], head_disagreement(scored.quantiles).float())
    assert risk.keys() == {"cvar=0.4", "spread", "disagreement"} and len(risk["spread"]) == states
    assert_close(scored.quantiles[told["last_state"]], scored.last_state)


def test_tensors_hold_all_quantiles(reader, critic, tiny_tokenizer):
    told = reader(PAIR, return_tensors=True)
    [scored] = score_completions(critic, tiny_tokenizer, [PAIR["prompt"]], [PAIR["completion"]])
    assert_close(told["quantiles"], scored.quantiles)
    assert told["risk"].keys() == {"cvar", "spread"} and told["value"].shape == scored.value.shape


def test_truncated_and_without_an_end_token(reader):
    ended, cut = reader(PAIR), reader({**PAIR, "truncated": True})
    assert len(ended["tokens"]) == len(cut["tokens"]) + 1
    assert (ended["last_state"], cut["last_state"]) == (len(cut["tokens"]), len(cut["tokens"]) - 1)
    assert reader(PAIR, append_eos=False) == cut
    assert ended["value"][:-1] == pytest.approx(cut["value"], abs=1e-6)


@pytest.mark.parametrize("prompt", ["hello", {"prompt": "hello"}, CHAT[:1], {"prompt": CHAT[:1]}])
def test_a_prompt_alone_has_one_state(reader, critic, tiny_tokenizer, prompt):
    told = reader(prompt)
    text = "hello" if prompt in ("hello", {"prompt": "hello"}) else "<s>user: hello<end>\n<s>assistant: "
    ids = tiny_tokenizer(text, add_special_tokens=False).input_ids
    assert told["tokens"] == [] and told["last_state"] == 0
    assert told["value"] == pytest.approx([critic(input_ids=torch.tensor([ids])).value[0, -1].item()], abs=1e-5)


def test_a_chat_is_read_in_the_assistants_turns(reader):
    told = reader(CHAT)
    assert "".join(told["tokens"]) == "world<end>5<end>"
    apart = reader({"prompt": CHAT[:1], "completion": CHAT[1:]})
    assert apart == told
    assert reader([CHAT, CHAT[:2]])[0]["value"] == pytest.approx(told["value"], abs=1e-5)


def test_arguments_reach_the_template(reader, critic, tiny_tokenizer):
    reader.tokenizer.chat_template += "{% if add_generation_prompt and calm %}hello {% endif %}"
    calm = {"chat_template_kwargs": {"calm": True}}
    [scored] = score_completions(critic, reader.tokenizer, [CHAT[:1]], ["world"], **calm)
    told = reader(CHAT[:2], **calm)
    assert "".join(told["tokens"]) == "world<end>"
    assert_close(torch.tensor(told["value"]), scored.value)
    assert reader(CHAT[:1], **calm)["value"] == pytest.approx([told["value"][0]], abs=1e-5)
    assert reader(CHAT[:1])["value"] != pytest.approx([told["value"][0]], abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_batches_change_nothing(reader, batch_size):
    inputs = [PAIR, "hello", {"prompt": "hello", "completion": " world hello world"}, {**PAIR, "truncated": True}]
    together = reader(inputs, batch_size=batch_size)
    for told, one in zip(together, map(reader, inputs), strict=True):
        assert told["tokens"] == one["tokens"] and told["last_state"] == one["last_state"]
        assert_close(torch.tensor(told["quantiles"]), torch.tensor(one["quantiles"]), rtol=0, atol=1e-5)


def test_generators_stream(reader):
    told = list(reader((PAIR for _ in range(3)), batch_size=2))
    assert len(told) == 3 and told[0]["value"] == pytest.approx(told[2]["value"], abs=1e-6)


def test_by_directory_and_saved_again(critic, tiny_tokenizer, tmp_path):
    critic.save_pretrained(tmp_path / "critic")
    tiny_tokenizer.save_pretrained(tmp_path / "critic")
    reader = pipeline("distributional-value", model=str(tmp_path / "critic"), device="cpu", risk="wang", batch_size=2)
    told = reader([PAIR, PAIR])
    assert told[0]["risk"].keys() == {"wang"}
    reader.save_pretrained(tmp_path / "again")  # asks for no remote code
    again = pipeline("distributional-value", model=str(tmp_path / "again"), device="cpu")
    assert again(PAIR)["value"] == told[0]["value"]


def test_in_half_precision(critic, tiny_tokenizer, tmp_path):
    critic.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    full, half = (
        pipeline("distributional-value", model=str(tmp_path), device="cpu", dtype=dtype)
        for dtype in ("float32", "bfloat16")
    )
    assert half.model.dtype == torch.bfloat16
    assert half(PAIR)["value"] == pytest.approx(full(PAIR)["value"], abs=0.1)
    assert half(PAIR)["value"] != full(PAIR)["value"]


def test_a_tokenizer_without_padding_is_batched_and_left_as_it_is(critic, tiny_tokenizer):
    tiny_tokenizer.pad_token = None
    reader = pipeline("distributional-value", model=critic, tokenizer=tiny_tokenizer, device="cpu")
    assert len(reader([PAIR, "hello"], batch_size=2)) == 2
    assert tiny_tokenizer.pad_token is None


class TestRefusals:
    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({"completion": "5"}, "cannot be read: give a text, a chat's messages, or a dict"),
            (3, "3 cannot be read"),
            ({**PAIR, "reward": 1.0}, "An input has the key 'reward'"),
            ({**PAIR, "completion": ""}, "empty completion"),
        ],
    )
    def test_inputs(self, reader, inputs, message):
        with pytest.raises(ValueError, match=message):
            reader(inputs)

    def test_settings(self, critic, tiny_tokenizer, reader):
        with pytest.raises(ValueError, match="no setting 'riks'"):
            pipeline("distributional-value", model=critic, tokenizer=tiny_tokenizer, riks="cvar")
        with pytest.raises(ValueError, match="'cvr' is no risk measure"):
            reader(PAIR, risk="cvr")
        with pytest.raises(ValueError, match="needs the critic's tokenizer"):
            pipelines.DistributionalValuePipeline(model=critic)
