"""Tasks with an exact verifier that need no network: problems as text, and rewards with TRL's signature.

`arithmetic`, `knowledge` and `dialogue` offer the same, so that what prepares a run need not know which it is:

- `DOMAINS` by name, and `STUDY_DOMAINS`, the first of which is trained on;
- `prompt_rows(count, *, seed, domain, held_out)`: a data set of one side of the split;
- `tokenizer()`, made for the task's texts;
- `demonstrations(*, seed, domain, carelessness)`: an endless stream to imitate, `imitation.train_policy` takes it;
- reward functions, and `stated_answer(completion)` for majority votes.
"""
