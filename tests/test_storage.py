"""Files are whole or absent, and say so when they were changed."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import metav
from metav import Fingerprint
from metav.errors import IntegrityError, StorageError
from metav.storage import (
    HALF_WRITTEN,
    OLD,
    digest,
    home,
    load_tensors,
    make_folder,
    replacing,
    save_tensors,
    sweep,
    write_atomic,
)

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor([1, 2]), "scalar": torch.tensor(3.0)}
META = {"name": "x", "nested": {"b": 1, "a": [1.5, None]}}


def test_saves_the_same_bytes_every_time_and_loads_what_was_saved(tmp_path):
    one, two = tmp_path / "1", tmp_path / "2"
    signature = save_tensors(one, TENSORS, META)
    assert save_tensors(two, dict(reversed(TENSORS.items())), META) == signature
    assert one.read_bytes() == two.read_bytes()
    tensors, meta = load_tensors(one, "mend")
    assert meta == {**META, "digest": signature}
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_the_digest_sees_names_types_shapes_values_and_metadata():
    changes = [
        ({**TENSORS, "b": TENSORS["b"] + 1e-6}, META),
        ({**TENSORS, "b": TENSORS["b"].reshape(3, 2)}, META),
        ({**TENSORS, "b": TENSORS["b"].double()}, META),
        ({("c" if name == "b" else name): value for name, value in TENSORS.items()}, META),
        (TENSORS, {**META, "name": "y"}),
    ]
    digests = {digest(*change) for change in changes}
    assert len(digests | {digest(TENSORS, META)}) == len(changes) + 1


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "file"
    save_tensors(path, TENSORS, META)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(IntegrityError, match="truncated or foreign"):
            load_tensors(path, "mend")


def test_every_changed_byte_is_noticed(tmp_path):
    path = tmp_path / "file"
    save_tensors(path, TENSORS, META)
    whole = path.read_bytes()
    for index in range(len(whole)):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
        try:
            tensors, meta = load_tensors(path, "mend")
        except IntegrityError:
            continue
        # the header of safetensors has padding and free order: then the content must be what it was
        assert (meta, digest(tensors, META)) == ({**META, "digest": meta["digest"]}, meta["digest"])


@pytest.mark.parametrize("content", [b"", b"hello", json.dumps({"a": 1}).encode()])
def test_foreign_files_are_refused_in_one_sentence(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(IntegrityError) as caught:
        load_tensors(path, "do this next.")
    assert str(caught.value).endswith("do this next.")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_in_the_way(tmp_path):
    with pytest.raises(StorageError, match="expected a file"):
        load_tensors(tmp_path / "none", "mend")
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StorageError, match="expected a folder that can be written to"):
        make_folder(tmp_path / "taken")
    with pytest.raises(StorageError, match="expected to write"):
        write_atomic(tmp_path / "none" / "file", b"")
    for path in (tmp_path / "taken" / "file", tmp_path / ("long" * 99)):
        with pytest.raises(StorageError, match="expected to write"):
            write_atomic(path, b"")


def test_threads_may_make_one_folder_at_once(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(make_folder, [tmp_path / "one"] * 2000))
    assert set(made) == {tmp_path / "one"}


def test_the_cache_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/somebody")
    monkeypatch.setenv("METAV_HOME", "~/x")
    assert str(home()) == "/somebody/x"
    monkeypatch.setenv("METAV_HOME", "")
    assert str(home()) == "/somebody/.cache/metav"
    monkeypatch.setenv("METAV_HOME", "~nobody-of-this-name/x")
    with pytest.raises(StorageError, match="where nobody has a home of that name: set METAV_HOME to another path"):
        home()


def test_a_path_without_a_name_is_no_file_to_write():
    with pytest.raises(StorageError, match=r"expected a file to write, got the folder '\.': add a name"):
        write_atomic(Path(), b"")


def test_a_file_that_is_replaced_while_it_is_read_is_the_old_one_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "file"

    def swapped(*args, **kwargs):
        """What safetensors opens between its header and its tensors, when another process is as fast as can be."""
        save_tensors(path, NEW, {"index": 1})
        return opened(*args, **kwargs)

    NEW, opened = {"x": torch.ones(1000)}, torch.UntypedStorage.from_file
    save_tensors(path, {"x": torch.zeros(1000)}, {"index": 0})
    monkeypatch.setattr(torch.UntypedStorage, "from_file", swapped)
    tensors, meta = load_tensors(path, "mend")
    assert (tensors["x"] == meta["index"]).all()
    monkeypatch.undo()
    assert load_tensors(path, "mend")[1]["index"] == 1


KILLED_BEFORE_RENAME = """
import os, signal, sys, pathlib
from metav import storage
pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
storage.write_atomic(pathlib.Path(sys.argv[1]), b"new" * 100000)
"""


def test_killed_before_the_rename_the_old_file_stays(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, b"old")
    done = subprocess.run([sys.executable, "-c", KILLED_BEFORE_RENAME, path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    write_atomic(path, b"newer")
    assert path.read_bytes() == b"newer"


class Trap:
    """A pickle of it writes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("write", [torch.save, lambda trap, path: path.write_bytes(pickle.dumps(trap))])
def test_what_is_pickled_is_refused_and_not_run(tmp_path, write):
    write(Trap(tmp_path / "sprung"), tmp_path / "made")
    for read in (Fingerprint.load, lambda path: load_tensors(path, "mend")):
        with pytest.raises(IntegrityError, match=r"^expected a whole safetensors file of metav at .*, got "):
            read(tmp_path / "made")
    assert not (tmp_path / "sprung").exists()


def test_nothing_is_ever_unpickled():
    for path in Path(metav.__file__).parent.rglob("*.py"):
        found = re.findall(r"torch\.load|(?:pickle|joblib)\.loads?|allow_pickle=True", path.read_text())
        assert not found, path


def test_what_a_kill_left_half_written_is_swept_after_a_day_and_nothing_else(tmp_path):
    left = [".0123456789abcdef.json.17", ".0123456789abcdef.safetensors.17", ".zoo.json.17", ".write-17"]
    left += [".import-ab_1"]
    kept = [".0123456789abcdef.json.18", "zoo.json", ".gitlab-ci.yml", ".pre-commit-config.yaml", ".env.local", ".git"]
    for name in (*left, *kept):
        if name in (".import-ab_1", ".git"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "zoo.json").write_text("{")
        else:
            (tmp_path / name).write_text("{")
    long_ago = time.time() - OLD - 1
    for name in (*left, *kept[1:]):
        os.utime(tmp_path / name, (long_ago, long_ago))
    sweep(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(kept)
    sweep(tmp_path, re.compile(r"\.env\.\w+"))
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(set(kept) - {".env.local"})


def test_half_written_files_have_names_that_are_swept_and_do_not_outlast_an_interrupt(tmp_path):
    for name in ("0123456789abcdef.safetensors", "0123456789abcdef.checkpoint", "zoo.json"):
        with suppress(KeyboardInterrupt), replacing(tmp_path / name) as temporary:
            temporary.write_bytes(b"{")
            assert HALF_WRITTEN.fullmatch(temporary.name)
            raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
