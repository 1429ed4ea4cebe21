"""Downloads that break, and none at all: what arrives is what the Hub has, or an error; never something else."""

import pytest
import torch
from hub_changes import CRITIC, POLICY, damage, upload
from hub_server.faults import Corrupt, CutDownload, Delay, Refuse, Truncate
from huggingface_hub import snapshot_download
from tiny_critics import tiny_batch
from tiny_pairs import assert_is_the_run, make_adapter, save_policy

from modeling_dvpo.digests import file_sha256, git_blob_id
from modeling_dvpo.hub import CorruptDownloadError, CriticMovedOnError, UnreachableError, pull_pair, push_critic

pytest_plugins = ["hub_server.fixtures", "pushed_pairs"]


DOWNLOADS = [f"/storage/models/{CRITIC}/", f"/{CRITIC}/resolve/.*/config.json", f"/{POLICY}/resolve/.*/tokenizer.json"]


class TestDownloads:
    @pytest.mark.parametrize(
        ("what", "trouble"),
        [
            *((what, trouble) for what in DOWNLOADS for trouble in (Corrupt(10), Truncate(20))),
            *((DOWNLOADS[0], trouble) for trouble in (CutDownload(20), CutDownload(20, reset=True), Delay(0.3))),
            *((DOWNLOADS[1], trouble) for trouble in (CutDownload(20), Refuse(503))),
        ],
    )
    def test_trouble_that_passes(self, hub, last, quick, what, trouble):
        rule = hub.faults.add("GET", what, trouble)
        pair = pull_pair(CRITIC)
        assert rule.hits == 1
        assert_is_the_run(pair, last)

    @pytest.mark.parametrize("what", DOWNLOADS[:2])
    @pytest.mark.parametrize(
        ("trouble", "how"), [(Corrupt(10), "with other bytes than the Hub has"), (Truncate(20), "should be of size")]
    )
    def test_trouble_that_stays(self, hub, last, quick, tmp_path, what, trouble, how):
        # what the first look at the config reads is not what is loaded
        rule = hub.faults.add("GET", what, trouble, times=None, after=1 if "config" in what else 0)
        with pytest.raises(CorruptDownloadError, match=how):
            pull_pair(CRITIC, cache_dir=tmp_path / "cache")
        assert rule.hits == 2
        hub.faults.clear()
        # nothing wrong is left behind, not even without a name
        for blob in (tmp_path / "cache").glob("models--*/blobs/*"):
            digest = file_sha256(blob) if len(blob.name) == 64 else git_blob_id(blob.read_bytes())
            assert digest == blob.name or blob.suffix == ".incomplete"
        assert_is_the_run(pull_pair(CRITIC, cache_dir=tmp_path / "cache"), last)

    def test_a_file_that_rotted_in_the_cache_is_fetched_anew(self, hub, last):
        path = pull_pair(CRITIC).critic / "model.safetensors"
        damage(path)
        assert_is_the_run(pull_pair(CRITIC), last)

    def test_a_file_that_rotted_in_a_directory_is_fetched_anew(self, hub, last, tmp_path):
        damage(pull_pair(CRITIC, local_dir=tmp_path / "pair").policy / "model.safetensors")
        assert_is_the_run(pull_pair(CRITIC, local_dir=tmp_path / "pair"), last)

    def test_a_hub_that_is_down(self, hub, last, quick):
        hub.faults.add("GET", ".*", Refuse(503), times=None)
        with pytest.raises(UnreachableError, match="The Hub does not answer .status 503"):
            pull_pair(CRITIC)


class TestOffline:
    def test_with_the_cache(self, hub, last, offline):
        online = pull_pair(CRITIC)
        offline()
        pair = pull_pair(CRITIC)
        assert (pair.critic, pair.policy, pair.critic_commit) == (online.critic, online.policy, online.critic_commit)
        assert_is_the_run(pair, last)
        assert pull_pair(POLICY).critic == pair.critic

    def test_by_commit(self, hub, last, offline):
        commit = pull_pair(POLICY).policy_commit
        offline()
        assert pull_pair(POLICY, revision=commit).policy_commit == commit

    def test_a_hub_that_is_down(self, hub, last, quick):
        pull_pair(CRITIC)
        hub.faults.add("GET", ".*", Refuse(503), times=None)
        hub.faults.add("HEAD", ".*", Refuse(503), times=None)
        assert_is_the_run(pull_pair(CRITIC), last)

    def test_without_the_cache(self, hub, last, offline):
        offline()
        match = "Offline mode is on .HF_HUB_OFFLINE., and .* has no user/critic .main.. Pull it once"
        with pytest.raises(UnreachableError, match=match):
            pull_pair(CRITIC)

    def test_with_half_of_the_pair(self, hub, last, offline):
        snapshot_download(CRITIC)
        offline()
        with pytest.raises(UnreachableError, match="has no user/policy"):
            pull_pair(CRITIC)

    def test_a_file_that_rotted(self, hub, last, offline):
        damage(pull_pair(CRITIC).critic / "model.safetensors")
        offline()
        with pytest.raises(CorruptDownloadError, match="model.safetensors of user/critic .* its bytes have changed"):
            pull_pair(CRITIC, allow="all")

    def test_a_directory(self, hub, last, offline, tmp_path):
        pull_pair(CRITIC, local_dir=tmp_path / "pair")
        offline()
        assert_is_the_run(pull_pair(CRITIC, local_dir=tmp_path / "pair"), last)
        assert_is_the_run(pull_pair(POLICY, local_dir=tmp_path / "pair"), last)
        damage(tmp_path / "pair" / "critic" / "model.safetensors")
        with pytest.raises(CriticMovedOnError):
            pull_pair(CRITIC, local_dir=tmp_path / "pair")

    def test_an_adapters_base(self, hub, tmp_path, tiny_tokenizer, offline):
        base = save_policy(tmp_path / "base", tiny_tokenizer)
        for repo in ("user/base", POLICY):
            upload(hub, repo, base)
        critic = make_adapter(base)
        push_critic(critic, CRITIC, tokenizer=tiny_tokenizer, policy=POLICY, base_model="user/base", card=False)
        pull_pair(CRITIC)
        offline()
        _, loaded, _ = pull_pair(CRITIC).load()
        assert torch.equal(loaded(tiny_batch()).quantiles, critic(tiny_batch()).quantiles)
