"""Tiny critics whose heads have seen a state: weights far from their start, return units other than 0 and 1."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import torch
from tiny_models import VOCABULARY, tiny_config
from transformers.utils import hub

from modeling_dvpo import AutoModelForDistributionalValue

SETTINGS = {"num_value_heads": 2, "num_quantiles": 5}
# settings of every kind of heads; labels of 0 and 1 fit all of them
HEADS = {
    "linear": {},
    "monotone": {"value_head_type": "monotone"},
    "categorical": {
        "value_head_type": "categorical",
        "value_support": [-0.5, 0.0, 0.5, 1.0, 1.5],
        "value_projection": "hl_gauss",
    },
    "bernoulli": {"value_head_type": "bernoulli", "value_support": [0.0, 1.0]},
    "bounded": {"value_head_type": "bounded", "value_support": [-0.5, 2.0], "num_quantiles": 1},
}


def tiny_critic(model_type="qwen3", *, seed=0, return_mean=0.25, return_scale=2.0, config=None, **settings):
    """A critic of random weights; `settings` are those of `from_config`."""
    torch.manual_seed(seed)
    config = config or tiny_config(model_type)
    config.return_mean, config.return_scale = return_mean, return_scale
    return stir_heads(AutoModelForDistributionalValue.from_config(config, **{**SETTINGS, **settings}).eval())


def stir_heads(critic):
    """Random head weights, large enough that every hidden state gets a distribution of its own; quantiles cross."""
    with torch.no_grad():
        critic.quantile_heads.weight.normal_(std=0.2)
        critic.quantile_heads.bias.normal_()
    return critic


def tiny_batch(batch=2, tokens=6, seed=1):
    """Token ids (batch, tokens), no special ones among them."""
    return torch.randint(3, VOCABULARY, (batch, tokens), generator=torch.Generator().manual_seed(seed))


class FakeHub:
    """Stands for the Hub's client in `transformers.utils.hub`: uploads become directories under `root`."""

    def __init__(self, root):
        self.root = Path(root)

    def install(self, patch=setattr):
        patch(hub, "hf_api", lambda: self)
        patch(hub, "create_and_tag_model_card", lambda *args, **kwargs: self)

    def upload_folder(self, *, repo_id, folder_path, **kwargs):
        shutil.copytree(folder_path, self.root / repo_id)
        return repo_id

    def create_repo(self, repo_id, **kwargs):
        return SimpleNamespace(repo_id=repo_id)

    def save(self, path):  # the model card
        Path(path).touch()
