"""`transformers.Trainer` as it is trains a critic, because the model has a `loss` and honours `num_items_in_batch`."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_critics import tiny_critic
from torch.testing import assert_close
from transformers import Trainer, TrainingArguments

from modeling_dvpo import AutoModelForDistributionalValue, labels_from_returns, monte_carlo_returns

ROWS, TOKENS, PAD = 16, 8, 0


def reward_set(num_atoms=None):
    """Padded rows of 2 prompt tokens and 2 to 6 completion tokens; the reward is 1 where the first token is even."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 99, (ROWS, TOKENS), generator=generator)
    lengths = 4 + torch.arange(ROWS) % 5
    positions = torch.arange(TOKENS)
    attention_mask = (positions < lengths[:, None]).long()
    ids[attention_mask == 0] = PAD
    completion_mask = (positions >= 2) & (attention_mask == 1)
    rewards = torch.where(positions == lengths[:, None] - 1, 1.0 - ids[:, :1] % 2, 0.0)
    returns = monte_carlo_returns(rewards, completion_mask)
    if num_atoms is not None:
        returns = returns[..., None] + 0.1 * torch.randn(ROWS, TOKENS, num_atoms, generator=generator)
    labels = labels_from_returns(returns, completion_mask)
    columns = {"input_ids": ids, "attention_mask": attention_mask, "labels": labels}
    return [{name: column[row] for name, column in columns.items()} for row in range(ROWS)]


def trainer_of(model, output_dir, *, train_dataset=None, **changes):
    settings = {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": 8,
        "max_steps": 6,
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 3,
    }
    arguments = TrainingArguments(**{**settings, **changes})
    return Trainer(model=model, args=arguments, train_dataset=train_dataset or reward_set())


def curve(trainer):
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def test_loss_falls_and_the_result_loads(tmp_path):
    critic = tiny_critic(return_mean=0.0, return_scale=1.0)
    trainer = trainer_of(critic, tmp_path, max_steps=40, optim="adamw_torch", learning_rate=0.01)
    before = trainer.evaluate(reward_set())["eval_loss"]
    trainer.train()
    losses = curve(trainer)
    assert len(losses) == 40
    assert trainer.evaluate(reward_set())["eval_loss"] < before / 4
    assert max(losses[-5:]) < min(losses[:5]) / 2
    trainer.save_model(tmp_path / "critic")
    loaded = AutoModelForDistributionalValue.from_pretrained(tmp_path / "critic")
    rows = reward_set()
    ids = torch.stack([row["input_ids"] for row in rows])
    mask = torch.stack([row["attention_mask"] for row in rows])
    value = loaded(ids, attention_mask=mask).value
    assert torch.equal(value, critic.eval()(ids, attention_mask=mask).value)
    # it has learned which rows are rewarded
    labels = torch.stack([row["labels"] for row in rows])
    assert value[labels == 1].mean() - value[labels == 0].mean() > 0.5


def lora_critic():
    torch.manual_seed(1)
    return get_peft_model(
        tiny_critic(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["quantile_heads"])
    )


@pytest.mark.parametrize(
    ("make", "num_atoms"),
    [(tiny_critic, None), (tiny_critic, 3), (lambda: tiny_critic(num_quantiles=1), None), (lora_critic, None)],
    ids=["one return", "three returns", "scalar critic", "LoRA"],
)
def test_accumulation_changes_nothing(make, num_atoms, tmp_path):
    """8 rows at once, and 4 times 2: rows have 2 to 6 labels, so a mean of means would be another loss."""
    runs = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        model = make()
        trainer = trainer_of(
            model,
            tmp_path,
            train_dataset=reward_set(num_atoms),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
        )
        start = {name: p.detach().clone() for name, p in model.named_parameters()}
        trainer.train()
        runs.append((curve(trainer), model.state_dict()))
        moved = [name for name, p in model.named_parameters() if not torch.equal(p, start[name])]
        assert len(moved) == sum(p.requires_grad for p in model.parameters())
    (losses, weights), (accumulated_losses, accumulated_weights) = runs
    assert len(losses) == 6 and losses[0] != losses[-1]
    assert accumulated_losses == pytest.approx(losses, rel=1e-5)
    for name, weight in weights.items():
        assert_close(accumulated_weights[name], weight, atol=1e-6, rtol=1e-5, msg=name)


def test_logged_loss_is_the_mean_over_labelled_tokens(tmp_path):
    critic = tiny_critic()
    rows = reward_set()
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    expected = critic(**batch).loss.item()
    trainer = trainer_of(critic, tmp_path, max_steps=1, per_device_train_batch_size=4, gradient_accumulation_steps=4)
    trainer.train()
    assert curve(trainer) == pytest.approx([expected], rel=1e-5)


def test_resume_gives_the_same_curve(tmp_path):
    whole = tiny_critic()
    trainer = trainer_of(whole, tmp_path / "whole", optim="adamw_torch", learning_rate=1e-3)
    trainer.train()

    settings = {"optim": "adamw_torch", "learning_rate": 1e-3, "save_strategy": "steps", "save_steps": 3}
    trainer_of(tiny_critic(), tmp_path / "parts", max_steps=3, **settings).train()
    resumed = tiny_critic(seed=5)  # other weights, to be replaced by the checkpoint's
    second = trainer_of(resumed, tmp_path / "parts", **settings)
    second.train(resume_from_checkpoint=True)
    assert len(curve(trainer)) == 6
    assert curve(second) == pytest.approx(curve(trainer), rel=1e-6)  # the first three are the checkpoint's
    for name, weight in whole.state_dict().items():
        assert_close(resumed.state_dict()[name], weight, msg=name)
    loaded = AutoModelForDistributionalValue.from_pretrained(tmp_path / "parts" / "checkpoint-6")
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in loaded.state_dict().items())


def test_predict_returns_quantiles_and_values(tmp_path):
    critic = tiny_critic()
    trainer = trainer_of(critic, tmp_path, per_device_eval_batch_size=5)
    prediction = trainer.predict(reward_set())
    quantiles, value = prediction.predictions
    assert quantiles.shape == (ROWS, TOKENS, 2, 5) and value.shape == (ROWS, TOKENS)
    assert_close(torch.tensor(value), torch.tensor(quantiles).mean((-2, -1)))
    assert prediction.label_ids.shape == (ROWS, TOKENS)
