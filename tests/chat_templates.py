"""Chat templates of the shapes that are in use, and a tokenizer that has their markers as tokens."""

from transformers import PreTrainedTokenizerFast

# `{{ '\\n' }}` and not a line break: templates are rendered with `trim_blocks`
_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>{{ '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{{ '\\n' }}{% endif %}"
)
# an empty block of thought in front of an answer without one, reasoning of earlier turns left out, both as Qwen3 does;
# and, as TRL's version of it, "\n" inside the {% generation %} block
_QWEN3 = (
    "{% for message in messages %}<|im_start|>{{ message.role }}{{ '\\n' }}{% if message.role == 'assistant' %}"
    "{% set answer = message.content.split('</think>')[-1].lstrip('\\n') %}"
    "{% set thought = message.content.split('</think>')[0].split('<think>')[-1].strip('\\n')"
    " if '</think>' in message.content else '' %}"
    "{% generation %}{% if loop.last %}<think>{{ '\\n' + thought + '\\n</think>\\n\\n' }}{% endif %}{{ answer }}"
    "<|im_end|>{{ '\\n' }}{% endgeneration %}{% else %}{{ message.content }}<|im_end|>{{ '\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{{ '\\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}<think>{{ '\\n\\n</think>\\n\\n' }}{% endif %}"
    "{% endif %}"
)

# name -> (template, the tokenizer's end token, what ends a turn)
TEMPLATES = {
    "gemma": (
        "{{ '<s>' }}{% for message in messages %}<start_of_turn>"
        "{{ 'model' if message.role == 'assistant' else message.role }}{{ '\\n' + message.content | trim }}"
        "<end_of_turn>{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}<start_of_turn>model{{ '\\n' }}{% endif %}",
        "<eos>",
        "<end_of_turn>",
    ),
    "chatml": (_CHATML, "<|endoftext|>", "<|im_end|>"),
    "glm": (
        "[gMASK]<sop>{% for message in messages %}"
        "<|{{ 'observation' if message.role == 'tool' else message.role }}|>{{ '\\n' + message.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{{ '\\n' }}{% endif %}",
        "<|endoftext|>",
        "<|user|>",
    ),
    "phi3": (
        "{% for message in messages %}<|{{ message.role }}|>{{ '\\n' + message.content }}<|end|>{{ '\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{{ '\\n' }}{% else %}<|endoftext|>{% endif %}",
        "<|endoftext|>",
        "<|end|>",
    ),
    "qwen3": (_QWEN3, "<|im_end|>", "<|im_end|>"),
    "llama3": (
        "{{ '<s>' }}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>"
        "{{ '\\n\\n' + message.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{{ '\\n\\n' }}{% endif %}",
        "<|end_of_text|>",
        "<|eot_id|>",
    ),
    "trailing": (  # {% generation %} blocks that open inside the generation prompt
        "{% for message in messages %}{% if message.role == 'assistant' %}{% generation %}<|im_start|>assistant"
        "{{ '\\n' + message.content }}<|im_end|>{% endgeneration %}{% else %}"
        "<|im_start|>{{ message.role + '\\n' + message.content }}<|im_end|>{% endif %}{{ '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant{{ '\\n' }}{% endif %}",
        "<|im_end|>",
        "<|im_end|>",
    ),
    "r1": (  # a thought that the generation prompt opens, and the template leaves out of all turns
        "{{ '<s>' }}{% for message in messages %}<|{{ message.role }}|>"
        "{{ message.content.split('</think>')[-1] }}"
        "{% if message.role == 'assistant' %}<|end_of_text|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|><think>{{ '\\n' }}{% endif %}",
        "<|end_of_text|>",
        "<|end_of_text|>",
    ),
}

MARKERS = [
    *("<eos>", "<start_of_turn>", "<end_of_turn>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "[gMASK]", "<sop>"),
    *("<|user|>", "<|assistant|>", "<|observation|>", "<|system|>", "<|end|>", "<|end_of_text|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
]


def with_template(tokenizer: PreTrainedTokenizerFast, name: str) -> PreTrainedTokenizerFast:
    """The `tiny_tokenizer` with all markers as special tokens, this template and its end token."""
    tokenizer.add_special_tokens({"additional_special_tokens": MARKERS}, replace_extra_special_tokens=False)
    tokenizer.chat_template, tokenizer.eos_token, _ = TEMPLATES[name]
    return tokenizer
