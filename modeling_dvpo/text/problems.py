"""What is wrong with a text, a chat or a tokenizer, said where it is found."""


class DataError(ValueError):
    """Data, or the tokenizer for it, that a critic cannot read; the message says what to change."""


class RowProblem(ValueError):
    """One row's problem: its kind, in few words that are the same for all such rows, and what was found."""

    def __init__(self, kind: str, found: str):
        super().__init__(f"{kind}: {found}")
        self.kind, self.found = kind, found

    def note(self) -> str:
        return f"{self.kind}: {self.found}"


def require_chat_template(tokenizer) -> None:
    if not tokenizer.chat_template:
        raise DataError(
            "The rows are chats, and the tokenizer has no chat template: set `tokenizer.chat_template`, use the "
            "tokenizer of a chat model, or give the rows as text."
        )


def require_end_token(tokenizer) -> None:
    if tokenizer.eos_token_id is None:
        raise DataError(
            "The tokenizer has no end token to append to completions: set `tokenizer.eos_token`, or use "
            "`append_eos=false`."
        )
