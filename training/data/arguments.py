"""Settings of what is read: reward sets and prompts."""

from dataclasses import dataclass, field

from modeling_dvpo.text.assistant_turns import require_template_arguments
from modeling_dvpo.text.problems import DataError

from ..errors import ConfigError, RewardDataError
from ..run.arguments import mapping, option


@dataclass(kw_only=True)
class RewardDataArguments:
    """Where the reward set is and how its columns are to be read."""

    dataset: str = field(
        metadata={"help": "A .jsonl/.json/.parquet/.csv file, a saved dataset, a folder of data files or a Hub name."}
    )
    dataset_config: str | None = option(None, "Configuration name of the dataset, where it has several.")
    dataset_split: str = option("train", "Split to train on; slices such as `train[:1000]` work.")
    eval_dataset: str | None = option(None, "Held-out set, in any of the forms of `dataset`.")
    eval_split: str | None = option(
        None, "Split to evaluate on: of `eval_dataset`, or of `dataset` where that is not given."
    )
    eval_fraction: float = option(0.0, "Share of the rows held out for evaluation, split by prompt; 0 for none.")
    prompt_column: str = option("prompt", "Prompt: text, or a list of chat messages.")
    completion_column: str = option("completion", "Completion: text, or a list of chat messages.")
    messages_column: str = option("messages", "Whole conversation; used where there is no completion column.")
    tools_column: str = option("tools", "Tools for the chat template, where the column exists.")
    chat_template_kwargs: dict | str | None = option(
        None, 'Arguments of the chat template: a mapping, or JSON such as {"enable_thinking": false}.'
    )
    reward_column: str = option("reward", "Reward: a number, or a list of numbers with `step_ends`.")
    step_ends_column: str = option("step_ends", "Ends of the steps, as character offsets into the completion.")
    token_rewards_column: str = option("token_rewards", "One reward per completion token, where the column exists.")
    chosen_column: str = option("chosen", "Preferred completion or conversation of a preference pair.")
    rejected_column: str = option("rejected", "Rejected completion or conversation of a preference pair.")
    chosen_score_column: str = option("chosen_score", "Score of the preferred completion.")
    rejected_score_column: str = option("rejected_score", "Score of the rejected completion.")
    truncated_column: str = option("truncated", "Whether the length limit cut the completion; it gets no end token.")
    prompt_ids_column: str = option("prompt_ids", "Tokens that the policy read, where the column exists.")
    completion_ids_column: str = option(
        "completion_ids", "Tokens that it sampled, its end token included; with the former they replace tokenisation."
    )
    logprobs_column: str = option(
        "logprobs", "Log-probabilities of the completion's tokens under its policy, where the column exists."
    )
    subset_column: str | None = option(None, "Label (a domain, say) carried through to evaluation.")
    max_length: int | None = option(None, "Longest row in tokens; the model's context by default.")
    drop_long_rows: bool = option(False, "Drop rows longer than `max_length` instead of refusing the set.")
    append_eos: bool = option(True, "End text completions with the end token; chats are left to the template.")
    reward_funcs: list[str] = option(
        [], "Score the rows with these: `package.module:function` names, or directories or Hub names of reward models."
    )
    reward_weights: list[float] = option([], "Weight of each reward function; 1 by default.")
    reward_source: list[str] = option(
        [], "What scored the reward column, by the names that reward_funcs would have: recorded, not called."
    )
    reward_batch_size: int = option(64, "Rows a reward function is called with at a time.")
    num_workers: int | None = option(None, "Processes that tokenise; one by default.")

    def __post_init__(self):
        self.chat_template_kwargs = template_arguments(self.chat_template_kwargs)
        if not 0.0 <= self.eval_fraction < 1.0:
            raise RewardDataError(f"eval_fraction is {self.eval_fraction}; it is a share of the rows, 0 <= share < 1.")
        if self.eval_fraction and (self.eval_dataset or self.eval_split):
            raise RewardDataError("Give eval_fraction or a held-out set (eval_dataset, eval_split), not both.")
        if self.reward_weights and len(self.reward_weights) != len(self.reward_funcs):
            raise RewardDataError(
                f"{len(self.reward_weights)} reward_weights for {len(self.reward_funcs)} reward_funcs: one for each."
            )
        if self.reward_funcs and self.reward_source:
            raise RewardDataError(
                "reward_funcs score the set now, and reward_source says what scored it before: give one of them."
            )
        if self.max_length is not None and self.max_length < 2:
            raise RewardDataError(f"max_length is {self.max_length}; a row has a prompt token and an action token.")


@dataclass(kw_only=True)
class PromptArguments:
    """Where the prompts are and how they are to be read."""

    dataset: str = field(
        metadata={"help": "A .jsonl/.json/.parquet/.csv file, a saved dataset, a folder of data files or a Hub name."}
    )
    dataset_config: str | None = option(None, "Configuration name of the dataset, where it has several.")
    dataset_split: str = option("train", "Split to train on; slices such as `train[:1000]` work.")
    prompt_column: str = option(
        "prompt", "Prompt: text, or a list of chat messages; without such a column, `messages` is used where it is."
    )
    chat: bool = option(False, "Make a text prompt the user message of a chat.")
    system_prompt: str | None = option(
        None, "System message before every prompt that has none of its own; implies `chat`."
    )
    tools_column: str = option("tools", "Tools for the chat template, where the column exists.")
    chat_template_kwargs: dict | str | None = option(
        None, 'Arguments of the chat template: a mapping, or JSON such as {"enable_thinking": false}.'
    )
    max_prompt_length: int | None = option(None, "Longest prompt in tokens; what the model's context leaves.")
    drop_long_prompts: bool = option(False, "Drop prompts that are too long instead of refusing the set.")
    eval_dataset: list[str] = option([], "Held-out sets, in any of the forms of `dataset`.")
    eval_split: str = option("train", "Split of each held-out set; a single file answers to any name.")

    def __post_init__(self):
        self.chat_template_kwargs = template_arguments(self.chat_template_kwargs)
        if self.max_prompt_length is not None and self.max_prompt_length < 1:
            raise ConfigError(f"max_prompt_length is {self.max_prompt_length}; a prompt has at least one token.")
        if self.dataset in self.eval_dataset and self.eval_split == self.dataset_split:
            raise ConfigError(
                f"eval_dataset has the prompts that are trained on ({self.dataset!r}, split {self.dataset_split!r}): "
                "give another set, or name another split with eval_split."
            )


def template_arguments(given: dict | str | None) -> dict:
    """`chat_template_kwargs` as a dict; raises ConfigError where they are none, or not the template's own."""
    arguments = mapping("chat_template_kwargs", given)
    try:
        require_template_arguments(arguments)
    except DataError as error:
        raise ConfigError(str(error)) from error
    return arguments
