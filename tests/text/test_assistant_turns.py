"""Where a conversation's completion begins; spans in rendered chats are tested with what is tokenised by them."""

import pytest

from modeling_dvpo.text.assistant_turns import split_conversation

SYSTEM, USER, ASSISTANT = ({"role": role, "content": "hello"} for role in ("system", "user", "assistant"))


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ([SYSTEM, USER], [ASSISTANT]),
        ([USER], [ASSISTANT, USER, ASSISTANT]),  # the first turn, not the last
        ([], [ASSISTANT]),
        ([USER, SYSTEM], []),
        ([], []),
    ],
)
def test_a_completion_begins_with_the_first_assistant_turn(prompt, completion):
    assert split_conversation(prompt + completion) == (prompt, completion)
