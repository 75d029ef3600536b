import pytest

from vit22b_dense import progress


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [(0.4, '0 s'), (89, '89 s'), (90, '2 min'), (5000, '83 min'), (5460, '1 h 31 min'), (36000, '10 h 00 min')],
)
def test_duration(seconds, text):
    assert progress.duration(seconds) == text


@pytest.mark.parametrize('terminal', [True, False])
def test_one_line_on_a_terminal_and_a_few_elsewhere(monkeypatch, capsys, terminal):
    now = [100.0]
    monkeypatch.setattr(progress.time, 'time', lambda: now[0])
    monkeypatch.setattr(progress.sys.stdout, 'isatty', lambda: terminal, raising=False)
    tell = progress.Progress('maps')
    for done in range(1, 41):
        now[0] += 1
        tell(done, 40)
    out = capsys.readouterr().out
    if terminal:
        assert out.count('\n') == 1
        assert '\r\033[K1/40 maps, 39 s left' in out
    else:
        assert out.splitlines() == [
            '11/40 maps, 29 s left', '22/40 maps, 18 s left', '33/40 maps, 7 s left', '40/40 maps, 0 s left',
        ]  # fmt: skip
