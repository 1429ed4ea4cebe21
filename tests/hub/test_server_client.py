"""The real client and `transformers` pointed at a Hub server: in this process, in a child process, and back."""

import os
import subprocess
import sys

import huggingface_hub
import pytest
import torch
from hub_server import HubServer
from hub_server.client import pointed_at
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import LocalEntryNotFoundError
from tiny_models import tiny_causal_lm
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

pytest_plugins = ["hub_server.fixtures"]

REPO = "user/model"


def test_a_model_is_pushed_and_loaded(hub, tiny_tokenizer):
    model = tiny_causal_lm("llama")
    model.push_to_hub(REPO, max_shard_size="40KB")
    tiny_tokenizer.push_to_hub(REPO)
    assert "model.safetensors.index.json" in hub.files(REPO)
    loaded = AutoModelForCausalLM.from_pretrained(REPO)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert AutoTokenizer.from_pretrained(REPO)("hello")["input_ids"] == tiny_tokenizer("hello")["input_ids"]
    with pytest.raises(OSError, match="is not a valid model identifier"):
        AutoModel.from_pretrained("user/missing")


def test_offline_the_cache_alone_answers(hub, monkeypatch):
    api = HfApi()
    hub.add_commit(REPO, {"a.txt": b"a"})
    path = api.hf_hub_download(REPO, "a.txt")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    seen = len(hub.requests)
    assert api.hf_hub_download(REPO, "a.txt") == path
    with pytest.raises(LocalEntryNotFoundError):
        api.hf_hub_download(REPO, "b.txt")
    assert len(hub.requests) == seen


CHILD = """
import huggingface_hub
from huggingface_hub import constants
print(constants.ENDPOINT, huggingface_hub.get_token())
print(open(huggingface_hub.hf_hub_download("user/model", "a.bin"), "rb").read())
if huggingface_hub.get_token():
    huggingface_hub.upload_file(repo_id="user/model", path_or_fileobj=b"child", path_in_repo="b.bin")
"""


@pytest.mark.parametrize("logged_in", [True, False])
def test_a_child_process(hub, tmp_path, logged_in):
    hub.add_commit(REPO, {"a.bin": b"parent"})
    environment = hub.environment(tmp_path / "home", hub.token if logged_in else None)
    command = [sys.executable, "-c", CHILD]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [hub.endpoint, str(hub.token if logged_in else None), "b'parent'"]
    assert ("b.bin" in hub.files(REPO)) == logged_in
    assert (tmp_path / "home" / "hub" / "models--user--model").is_dir()


REMOTE_CODE = """
from transformers import PreTrainedConfig

class OurConfig(PreTrainedConfig):
    model_type = "ours"
    answer = {answer}
"""


@pytest.mark.parametrize("answer", [1, 2])
def test_remote_code_is_that_of_this_hub(hub, answer):
    auto_map = b'{"model_type": "ours", "auto_map": {"AutoConfig": "configuration.OurConfig"}}'
    code = REMOTE_CODE.format(answer=answer).encode()
    hub.add_commit(REPO, {"config.json": auto_map, "configuration.py": code})
    assert AutoConfig.from_pretrained(REPO, trust_remote_code=True).answer == answer


def test_the_client_is_as_it_was_afterwards(tmp_path):
    def state():
        modules = {name for name in sys.modules if name.startswith("transformers_modules")}
        return dict(vars(constants)), huggingface_hub.hf_api.api.endpoint, list(sys.path), modules

    before, variables = state(), dict(os.environ)
    with HubServer() as hub, pointed_at(hub, tmp_path, hub.token):
        test_remote_code_is_that_of_this_hub(hub, 3)
        assert all(old != new for old, new in zip(before, state(), strict=True))
        assert HfApi().whoami()["name"] == "user"
    assert state() == before and dict(os.environ) == variables
