"""Run in a clean process where our package cannot be imported: load a saved critic as transformers' users do.

Usage: python load_with_remote_code.py DIRECTORY OUTPUT_FILE
"""

import sys

sys.modules["modeling_dvpo"] = None  # importing it raises ImportError from here on

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import AutoConfig, AutoModel, AutoTokenizer  # noqa: E402


def main(directory: str, output_file: str) -> None:
    try:
        import modeling_dvpo  # noqa: F401
    except ImportError:
        pass
    else:
        raise AssertionError("the package could be imported")
    # AutoTokenizer and AutoConfig need no remote code
    ids = AutoTokenizer.from_pretrained(directory)(["What is 2 + 3?"], return_tensors="pt").input_ids
    config = AutoConfig.from_pretrained(directory)
    critic = AutoModel.from_pretrained(directory, trust_remote_code=True)
    assert type(critic).__module__.startswith("transformers_modules."), type(critic).__module__
    assert not critic.training
    labels = torch.arange(ids.numel(), dtype=torch.float32).reshape(ids.shape) / 7
    output = critic(ids, labels=labels)
    settings = torch.tensor([config.num_value_heads, config.num_quantiles, config.return_mean, config.return_scale])
    # the copy it saves is self-contained, too
    critic.save_pretrained(output_file + "-again")
    again = AutoModel.from_pretrained(output_file + "-again", trust_remote_code=True)
    save_file(
        {
            "ids": ids,
            "quantiles": output.quantiles.detach(),
            "value": output.value.detach(),
            "loss": output.loss.detach(),
            "settings": settings,
            "again": again(ids).quantiles.detach(),
        },
        output_file,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
