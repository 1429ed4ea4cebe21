"""From a policy to a reward set: its completions, scored, as rows that a critic is trained on."""

from .reward_rows import sample_reward_set as sample_reward_set
