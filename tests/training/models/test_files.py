import hashlib
from types import SimpleNamespace

import pytest

from modeling_dvpo.training.errors import ConfigError
from modeling_dvpo.training.models import files as files_module
from modeling_dvpo.training.models.files import files_of


def source(name, revision=None):
    return SimpleNamespace(model_name_or_path=str(name), revision=revision, gguf_file=None)


def sha(content):
    return hashlib.sha256(content).hexdigest()


def test_files_of_a_directory(tmp_path):
    """Of an adapter's, too, which need not have a config."""
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    (tmp_path / "notes.txt").write_bytes(b"other")
    assert files_of(source(tmp_path)) == ({"adapter_model.safetensors": sha(b"weights")}, None)


@pytest.mark.parametrize("file", ["config.json", "adapter_config.json"])
def test_files_of_a_repository(tmp_path, monkeypatch, file):
    folder = tmp_path / "snapshots" / "abc123"
    folder.mkdir(parents=True)
    for name in ("a.safetensors", "b.safetensors"):
        (folder / name).write_bytes(name.encode())

    def cached_file(name, wanted, *, revision, **_):
        assert (name, revision) == ("owner/critic", "main")
        return str(folder / wanted) if wanted == file else None

    monkeypatch.setattr(files_module, "cached_file", cached_file)
    files, commit = files_of(source("owner/critic", "main"))
    assert files == {"a.safetensors": sha(b"a.safetensors"), "b.safetensors": sha(b"b.safetensors")}
    assert commit == "abc123"


def test_no_repository(monkeypatch):
    monkeypatch.setattr(files_module, "cached_file", lambda *_, **__: None)
    with pytest.raises(ConfigError, match="owner/critic has neither config.json nor adapter_config.json"):
        files_of(source("owner/critic"))
