"""A sequence classifier as a reward function."""

import pytest
import torch
from tiny_models import tiny_config
from transformers import AutoModelForSequenceClassification

from modeling_dvpo.training.errors import RewardDataError
from modeling_dvpo.training.rewards.functions import load_reward_function, reward_names
from modeling_dvpo.training.rewards.reward_model import RewardModel


class TestRewardModel:
    def save(self, tokenizer, path, labels=1, **settings):
        torch.manual_seed(0)
        config = tiny_config("qwen3", vocab_size=330, num_labels=labels, initializer_range=0.5, **settings)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(path)
        tokenizer.save_pretrained(path)
        return str(path)

    def scores(self, model, prompts=("1 + 1?", "2 + 2?"), completions=(" 2", " 5 or so")):
        return model(prompts=list(prompts), completions=list(completions), completion_ids=None, answer=None)

    def expected(self, model, text):
        ids = model.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            return pytest.approx(model.model(ids.to(model.device)).logits.item(), abs=1e-5)

    @pytest.mark.parametrize("token", ["<pad>", "<end>", None], ids="tokenizer: {}".format)
    @pytest.mark.parametrize("own", [0, 2, None, -1], ids="model: {}".format)
    def test_a_row_has_the_score_that_the_model_gives_it_alone(self, tiny_tokenizer, tmp_path, own, token):
        """The end token was made the pad id of a model that had another, or none: a row that ends with it was then
        read one token too early, and scored as if its end were missing (id 2 is the end token, 0 the pad token)."""
        tiny_tokenizer.pad_token = token
        model = RewardModel(self.save(tiny_tokenizer, tmp_path, pad_token_id=own))
        texts = ["1 + 1? 2<end>", "2 + 2? 5 or so<end>", "hello"]
        scores = self.scores(model, [""] * 3, texts)
        alone = AutoModelForSequenceClassification.from_pretrained(tmp_path)
        assert alone.config.pad_token_id == model.model.config.pad_token_id == own
        with torch.no_grad():
            expected = [alone(torch.tensor([tiny_tokenizer(text).input_ids])).logits.item() for text in texts]
        assert scores == pytest.approx(expected, abs=1e-5)
        assert scores[0] != pytest.approx(scores[1], abs=1e-3)

    def test_an_encoder_is_asked_as_it_is(self, tiny_tokenizer, tmp_path):
        torch.manual_seed(0)
        config = tiny_config("bert", vocab_size=330, num_labels=1, initializer_range=0.5, pad_token_id=0)
        alone = AutoModelForSequenceClassification.from_config(config).eval()
        alone.save_pretrained(tmp_path)
        tiny_tokenizer.pad_token = None
        tiny_tokenizer.save_pretrained(tmp_path)
        texts = ["1 + 1? 2<end>", "2 + 2? 5 or so<end>"]
        with torch.no_grad():
            expected = [alone(torch.tensor([tiny_tokenizer(text).input_ids])).logits.item() for text in texts]
        assert self.scores(load_reward_function(str(tmp_path)), [""] * 2, texts) == pytest.approx(expected, abs=1e-5)

    def test_scores_chats_through_its_own_template(self, tiny_tokenizer, tmp_path):
        model = RewardModel(self.save(tiny_tokenizer, tmp_path / "judge"), batch_size=1)
        assert reward_names([model]) == ["judge"]
        prompt, completion = [{"role": "user", "content": "hi"}], [{"role": "assistant", "content": "yo"}]
        expected = self.expected(model, "<s>user: hi<end>\n<s>assistant: yo<end>\n")
        assert self.scores(model, [prompt, prompt], [completion, "yo"]) == [expected, expected]

    def test_one_label_is_needed(self, tiny_tokenizer, tmp_path):
        with pytest.raises(RewardDataError, match="has 2 labels, and a reward model needs 1"):
            RewardModel(self.save(tiny_tokenizer, tmp_path, labels=2))
