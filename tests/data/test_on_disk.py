"""Names, locks and syncs in folders that several processes see."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gmmest.data.on_disk import beside, lock, sync_folder
from gmmest.report.export import write_run


def test_a_name_beside_a_path_is_hidden_and_nobody_elses(tmp_path: Path) -> None:
    names = {beside(tmp_path / "result.json") for _ in range(100)}
    assert len(names) == 100
    assert {name.parent for name in names} == {tmp_path}
    assert all(name.name.startswith(".result.json.") for name in names)


def test_what_a_killed_process_of_this_number_left_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / f".result.json.{os.getpid()}.tmp").write_text("half")
    write_run(tmp_path, {"result.json": "whole"})
    assert (tmp_path / "result.json").read_text() == "whole"


def test_one_lock_a_file_until_it_is_closed(tmp_path: Path) -> None:
    first, second = (os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert (lock(first), lock(second)) == (True, False)
    os.close(first)
    assert lock(second)
    os.close(second)


@pytest.mark.parametrize("unknown", [errno.EINVAL, errno.EBADF])
def test_a_file_system_that_syncs_no_folders_is_no_failure_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unknown: int
) -> None:
    def fsync(_: int, number: int = unknown) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    sync_folder(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: fsync(descriptor, errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        sync_folder(tmp_path)
