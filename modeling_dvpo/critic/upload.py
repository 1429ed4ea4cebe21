"""How `push_to_hub` uploads a critic: what was saved, and nothing of an earlier version that would be loaded instead.

Shipped into every critic repository as part of its remote code: imports torch and transformers only.
"""

from transformers.utils import hub as client

# weights that an upload does not bring are of an earlier version in another layout
REPLACED = [
    "model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json", "adapter_model.safetensors",
    "adapter_config.json", "pytorch_model.bin", "pytorch_model-*-of-*.bin", "pytorch_model.bin.index.json",
]  # fmt: skip


def upload_critic(
    directory, repo_id, *, commit_message=None, commit_description=None, token=None, create_pr=False, revision=None
):
    """One commit that adds the directory's files and deletes other weights; arguments are those of `push_to_hub`.

    transformers itself leaves an old single file under new shards, and then loads the old one.
    """
    hub = client.hf_api()
    if revision is not None and not revision.startswith("refs/pr") and not create_pr:
        hub.create_branch(repo_id, branch=revision, token=token, exist_ok=True)
    return hub.upload_folder(
        repo_id=repo_id,
        folder_path=directory,
        commit_message=commit_message or "Upload critic",
        commit_description=commit_description,
        create_pr=create_pr,
        revision=revision,
        token=token,
        delete_patterns=REPLACED,
    )
