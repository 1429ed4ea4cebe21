"""docs/use_a_critic.md: its examples run, in their order, on small random models in place of the demo's."""

import re
from pathlib import Path

import torch

from modeling_dvpo import AutoModelForDistributionalValue
from modeling_dvpo.inference.risk_measures import RISK_MEASURES, SHORT_NAMES, parse_risk_measure
from modeling_dvpo.training.tasks import arithmetic, imitation

PAGE = (Path(__file__).parents[2] / "docs" / "use_a_critic.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_examples_run(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    tokenizer = arithmetic.tokenizer()
    policy = imitation.build_policy(tokenizer, hidden_size=16, num_layers=1)
    critic = AutoModelForDistributionalValue.from_config(policy.config, num_quantiles=8)
    for model, place in ((policy, "policy"), (critic, "critics/auto/last")):
        model.save_pretrained(tmp_path / "outputs" / "demo" / place)
        tokenizer.save_pretrained(tmp_path / "outputs" / "demo" / place)
    monkeypatch.chdir(tmp_path)
    names = {}
    for text in EXAMPLES:
        exec(text, names)
    assert len(EXAMPLES) >= 4
    assert len(names["told"]["value"]) == len(names["told"]["tokens"]) + 1
    assert capsys.readouterr().out.count("answer") == 3  # one line for each candidate
    assert any(candidate.pruned for candidate in names["result"].candidates)


def test_every_score_is_there():
    section = PAGE[PAGE.index("### Scores") : PAGE.index("## Best of n")]
    written = set(re.findall(r"`([a-z_]+(?:=[0-9.]+)?)`", section))
    assert RISK_MEASURES.keys() | SHORT_NAMES.keys() <= written
    for name in written - {"score"}:
        parse_risk_measure(name)
