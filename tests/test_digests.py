"""Digests of files: equal for equal content, different for any other."""

import hashlib
import os
import subprocess

from modeling_dvpo.digests import file_sha256, git_blob_id


def test_file_sha256_reads_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_dvpo.digests.CHUNK", 3)
    (tmp_path / "a").write_bytes(b"0123456789")
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"0123456789").hexdigest()


def test_file_sha256_notices_a_new_content_of_the_same_size(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    before = file_sha256(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert file_sha256(path) == hashlib.sha256(b"two").hexdigest() != before


def test_git_blob_id_is_gits(tmp_path):
    (tmp_path / "a").write_bytes(b"hello\n")
    git = subprocess.run(["git", "hash-object", tmp_path / "a"], capture_output=True, text=True, check=True)
    assert git_blob_id(b"hello\n") == git.stdout.strip() == "ce013625030ba8dba906f756967f9e9ca394464a"
