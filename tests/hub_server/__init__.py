"""A small Hub for tests: the real `huggingface_hub` and `transformers` talk to it over HTTP on the loopback interface.

    pytest_plugins = ["hub_server.fixtures"]    # the fixture `hub`: a server, and the client pointed at it

    def test_something(hub, tmp_path):
        huggingface_hub.upload_file(...)                         # in this process, logged in as `user`
        assert hub.files("user/repo")["a.txt"] == b"hello"       # what the Hub holds
        assert hub.count("POST", "/commit/") == 1                # what the client asked; all of it: `hub.requests`
        hub.add_commit("user/repo", {"a.txt": b"theirs"})        # somebody else was faster
        hub.faults.add("PUT", "/storage/", CutUpload(1000))      # trouble: `hub_server.faults`, fixture `waits`
        subprocess.run(command, env=hub.environment(tmp_path / "home", hub.token))

Large files travel by plain LFS, not by Xet: with `hf_xet` installed the client uploads by Xet alone without asking the
server, hence `HF_HUB_DISABLE_XET`, which the fixture and `environment` set.
"""

from .server import HubServer

__all__ = ["HubServer"]
