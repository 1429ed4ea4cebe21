"""Tasks with an exact verifier that need no network: problems as text, and rewards with TRL's signature."""
