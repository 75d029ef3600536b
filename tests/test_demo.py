"""The demo's halves run side by side: what one of them says when it fails stops all."""

import importlib.util
import time
from pathlib import Path

import pytest
from conftest import REPO

SCRIPTS = {
    'fine.py': 'print("said")',
    'fails.py': 'import sys; print("error: no such thing", file=sys.stderr); sys.exit(3)',
    'sleeps.py': 'import time; time.sleep(600)',
}


@pytest.fixture
def demo(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location('demo_tool', REPO / 'tools/demo.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    for name, text in SCRIPTS.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(tool, 'TOOLS', tmp_path)
    return tool


def test_a_failure_stops_both_halves(demo, tmp_path: Path, capsys) -> None:
    started = []

    def half(part, *scripts):
        for script in scripts:
            for process in part.run(f'step {script}', script):
                started.append(process)
                yield process
        return part.name

    parts = [demo.Part(name, tmp_path / 'work') for name in ('one', 'two')]
    assert demo.side_by_side(parts, [half(part, 'fine.py') for part in parts]) == ['one', 'two']
    assert [part.last_line() for part in parts] == ['said', 'said']
    begin = time.time()
    with pytest.raises(SystemExit) as end:
        demo.side_by_side(parts, [half(parts[0], 'sleeps.py'), half(parts[1], 'fine.py', 'fails.py')])
    assert time.time() - begin < 300
    assert 'error: no such thing' in end.value.code
    assert 'fails.py ended with status 3' in end.value.code
    assert str(parts[1].log) in end.value.code
    assert not any(process.is_alive() for process in started)
    assert 'one: step sleeps.py' in capsys.readouterr().out
