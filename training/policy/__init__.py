"""Policy training: prompts, rollouts, rewards, advantages and the update."""
