"""`transformers.pipeline("distributional-value", model=...)`: what a critic expects along texts and chats.

reader = pipeline("distributional-value", model="outputs/demo/critics/auto/last")
reader({"prompt": "8+4-9=", "completion": "8+4=12;12-9=3;answer 3"})["value"]
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from transformers import Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from ..auto import AutoModelForDistributionalValue
from ..metrics.scores import head_disagreement
from ..text.arrow_rows import without_added_nulls
from ..text.assistant_turns import split_conversation
from ..text.completion_tokens import CompletionTokenizer, Tokens, prompt_tokens
from .risk_measures import RiskMeasure, parse_risk_measure, quantiles_at
from .scoring import ScoredCompletion, score_tokens

TASK = "distributional-value"
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


class DistributionalValuePipeline(Pipeline):
    """Reads prompts with completions and gives value, quantiles and risk in every state along them.

    An input is one of these, or a list, a generator or a data set of them:

    - `{"prompt": ..., "completion": ...}`: text with text; or a chat's messages with the messages, or the text, of
      what the assistant went on to say. Further keys: "tools" for the chat template, and "truncated", true where the
      completion was cut off and has no end token.
    - `{"prompt": ...}`, or a text alone: a prompt without a completion, which has one state.
    - a list of messages: a chat, read in each of the assistant's turns; without any, a prompt.

    Args (of the pipeline, or of a call):
        risk: what to say of each state besides its value: names of `modeling_dvpo.inference.risk_measures` ("cvar",
            "cvar=0.25", "upper_tail", ...), "spread" (the standard deviation of the distribution, heads averaged) and
            "disagreement" (that of the heads' means).
        levels: of the quantiles to give, in (0, 1].
        append_eos: end text completions that are not truncated with the end token.
        chat_template_kwargs: arguments of the chat template's own, such as {"enable_thinking": False}.
        return_tensors: tensors instead of lists, and all of the critic's quantiles instead of those at `levels`.
        batch_size: inputs read together; 1 by default.

    Returns:
        a dict for each input, whose completion has T tokens (0 for a prompt alone):

        - tokens: T strings, those of the assistant's turns only.
        - value: (T + 1,) expected return; [t] before token t, [T] after the last one.
        - quantiles: (T + 1, levels), of the distribution averaged over heads; with return_tensors (T + 1, N, M).
        - levels: of these; not with return_tensors.
        - risk: each name's (T + 1,) numbers.
        - last_state: the place in the lists to read one number for the whole completion at: the state before its last
          token, T - 1; of a prompt alone its one state, 0.
    """

    # Any, where the base class declares None
    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    _load_feature_extractor: Any = False
    _load_tokenizer: Any = True
    _pipeline_calls_generate = False
    tokenizer: Any  # there always is one
    _registered_impl: dict  # set by transformers, see `register`

    def __init__(self, model, tokenizer=None, **kwargs):
        if tokenizer is None:
            raise ValueError(f"A {TASK} pipeline needs the critic's tokenizer: give tokenizer.")
        if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
            # transformers asks for one before it batches; `score_tokens`, which pads, needs none
            tokenizer = copy.deepcopy(tokenizer)
            tokenizer.pad_token = tokenizer.eos_token
        super().__init__(model=model, tokenizer=tokenizer, **kwargs)

    def _sanitize_parameters(
        self, risk=None, levels=None, append_eos=None, chat_template_kwargs=None, return_tensors=None, **unknown
    ) -> tuple[dict, dict, dict]:
        if unknown:
            raise ValueError(
                f"{TASK} pipelines have no setting {sorted(unknown)[0]!r}; there are risk, levels, append_eos, "
                "chat_template_kwargs, return_tensors and batch_size."
            )
        before = {"append_eos": append_eos, "chat_template_kwargs": chat_template_kwargs}
        before = {name: value for name, value in before.items() if value is not None}
        after: dict[str, Any] = {"risk": risk, "levels": levels, "return_tensors": return_tensors}
        after = {name: value for name, value in after.items() if value is not None}
        if risk is not None:
            after["risk"] = [risk] if isinstance(risk, str) else list(risk)
            for name in after["risk"]:
                _measure(name)  # says what is wrong with it, before anything is read
        return before, {}, after

    def preprocess(  # type: ignore[override]  # the base says `dict` of a setting
        self, inputs, append_eos: bool = True, chat_template_kwargs: dict | None = None
    ) -> dict:
        prompt, completion, options = _parts(inputs)
        if completion is None:
            ids = prompt_tokens(
                self.tokenizer, prompt, options.get("tools"), chat_template_kwargs=chat_template_kwargs
            )
            return {"row": Tokens(ids, [False] * len(ids))}
        tokenize = CompletionTokenizer(
            self.tokenizer, append_eos=append_eos, chat_template_kwargs=chat_template_kwargs
        )
        return {"row": tokenize(prompt, completion, **options)}

    def _forward(self, model_inputs: dict) -> dict:  # type: ignore[override]  # the base promises a ModelOutput
        rows = model_inputs["row"]
        one = isinstance(rows, Tokens)
        scored = score_tokens(self.model, [rows] if one else rows)
        return {"scored": scored[0] if one else scored}

    def postprocess(  # type: ignore[override]  # as above
        self,
        model_outputs: dict,
        risk: Sequence[str] = ("cvar", "spread"),
        levels: Sequence[float] = LEVELS,
        return_tensors: bool = False,
    ) -> dict:
        scored: ScoredCompletion = model_outputs["scored"]
        ids = [scored.input_ids[place] for place in scored.action_positions]
        ensemble = scored.quantiles.mean(-2)
        told: dict[str, Any] = {
            "tokens": [self.tokenizer.decode([token]) for token in ids],
            "value": scored.value,
            "quantiles": scored.quantiles if return_tensors else quantiles_at(ensemble, levels),
            "risk": {name: _measure(name)(scored.quantiles).float() for name in risk},
            "last_state": max(len(ids) - 1, 0),
        }
        if return_tensors:
            return told
        risks = {name: numbers.tolist() for name, numbers in told["risk"].items()}
        numbers = {"value": told["value"].tolist(), "quantiles": told["quantiles"].tolist(), "risk": risks}
        return {**told, **numbers, "levels": list(levels)}


def _parts(inputs) -> tuple:
    """Prompt, completion (or None) and the tokenizer's options, of what a caller gives."""
    if isinstance(inputs, str):
        return inputs, None, {}
    messages = getattr(inputs, "messages", inputs)  # transformers wraps lists of messages
    if isinstance(messages, list | tuple):
        prompt, completion = split_conversation(list(messages))
        return prompt, completion or None, {}
    if not isinstance(inputs, dict) or "prompt" not in inputs:
        raise ValueError(
            f"{inputs!r:.80} cannot be read: give a text, a chat's messages, or a dict with a prompt and, if it has "
            "one, its completion."
        )
    unknown = inputs.keys() - {"prompt", "completion", "tools", "truncated"}
    if unknown:
        raise ValueError(
            f"An input has the key {sorted(unknown)[0]!r}; there are prompt, completion, tools and truncated."
        )
    inputs = without_added_nulls(dict(inputs))  # rows of a data set have been through Arrow
    options = {name: inputs[name] for name in ("tools", "truncated") if name in inputs}
    return inputs.get("prompt"), inputs.get("completion"), options


def _measure(name: str) -> RiskMeasure:
    """Of quantiles (T + 1, N, M)."""
    if name == "spread":
        return lambda quantiles: quantiles.mean(-2).std(-1, correction=0)
    if name == "disagreement":
        return head_disagreement
    measure = parse_risk_measure(name)
    return lambda quantiles: measure(quantiles.mean(-2))


def register() -> None:
    """Make the task known to `transformers.pipeline`; importing `modeling_dvpo` does."""
    if TASK in PIPELINE_REGISTRY.get_supported_tasks():
        return
    PIPELINE_REGISTRY.register_pipeline(
        TASK, DistributionalValuePipeline, pt_model=AutoModelForDistributionalValue, type="text"
    )
    # transformers would copy this file into what `save_pretrained` of a pipeline writes, and name it in the critic's
    # config: the directory would then be refused without `trust_remote_code`. The task is known where this package is.
    del DistributionalValuePipeline._registered_impl
