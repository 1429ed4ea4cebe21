"""How large a reward may be."""

# Rewards and returns are float32, whose largest number is the square of this: squares of them are summed.
LARGEST_REWARD = 1e18
