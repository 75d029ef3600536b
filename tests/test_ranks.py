"""Of several processes that meet the same error, the first one says it."""

import pytest
from torch.distributed import TCPStore

from vit22b_dense import ranks
from vit22b_dense.errors import UserError, run_tool


@pytest.fixture
def as_rank(monkeypatch):
    """A function: what the tool of a process prints that fails with a message."""
    store = TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    launched = dict(WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(store.port))
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ranks, 'SECONDS', 0.1)

    def run(rank, message, capsys):
        def main():
            raise UserError(message)

        monkeypatch.setenv('RANK', str(rank))
        with pytest.raises(SystemExit) as ended:
            run_tool(main)
        assert ended.value.code == 1
        return capsys.readouterr().err

    run.store = store
    return run


def test_what_all_meet_is_said_once_and_what_one_meets_by_that_one(as_rank, capsys, monkeypatch):
    assert as_rank(0, 'no such config', capsys) == 'error: no such config\n'
    assert as_rank(1, 'no such config', capsys) == ''
    assert as_rank(1, 'no such file on this machine', capsys) == 'error: no such file on this machine\n'
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')  # the first one is well this time
    assert as_rank(1, 'no such config', capsys) == 'error: no such config\n'


def test_without_others_or_a_way_to_ask_them_it_is_said(as_rank, capsys, monkeypatch):
    assert as_rank(0, 'no such config', capsys) != ''
    monkeypatch.setenv('MASTER_PORT', '1')
    assert as_rank(1, 'no such config', capsys) != ''
    monkeypatch.setenv('WORLD_SIZE', '1')
    assert as_rank(0, 'no such config', capsys) != ''
