"""Rows of reward sets, and what of their tokens was an action."""

TURNS = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "hello world"},
    {"role": "tool", "content": "5"},
    {"role": "user", "content": "What is 2 + 3?"},
    {"role": "assistant", "content": "The answer is 5."},
]


def text(reward=1.0, **more):
    return {"prompt": "What is 2 + 3?", "completion": " The answer is 5.", "reward": reward, **more}


def actions(row, tokenizer):
    """The text of each run of action tokens."""
    runs, before = [], False
    for token, action in zip(row["input_ids"], row["completion_mask"], strict=True):
        if action:
            runs[len(runs) - 1 :] = [runs[-1] + [token]] if before else [*runs[-1:], [token]]
        before = action
    return [tokenizer.decode(run) for run in runs]
