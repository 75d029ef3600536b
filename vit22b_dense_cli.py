"""The console command ``vit22b-dense``: one sub-command a script of tools/, with that script's arguments.

It is a module beside the package, because importing the package takes seconds and prints what mmseg has not found.
"""

import argparse
import ast
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

NOTE = """\
vit22b-dense COMMAND --help explains the arguments of a command. A CONFIG is a file, or the name of one that is part of
the package, such as ade20k/linear.py."""


def scripts(package: Path) -> dict[str, Path]:
    """Each sub-command's name and script, in the order of the names."""
    return {path.stem.replace('_', '-'): path for path in sorted((package / '.mim/tools').glob('*.py'))}


def summary(script: Path) -> str:
    """The first line of a script's docstring."""
    return ast.get_docstring(ast.parse(script.read_text(encoding='utf-8'))).partition('\n')[0]


def main() -> None:
    """Run the script that the first argument names, as if it had been started itself."""
    package = Path(find_spec('vit22b_dense').origin).parent
    commands = scripts(package)
    width = max(map(len, commands))
    lines = [f'  {name:{width}}  {summary(script)}' for name, script in commands.items()]
    version = runpy.run_path(str(package / 'version.py'))['__version__']
    parser = argparse.ArgumentParser(
        prog='vit22b-dense',
        description='Dense prediction on very large plain Vision Transformers.',
        epilog='\n'.join(['commands:', *lines, '', NOTE]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=version)
    parser.add_argument('command', choices=commands, metavar='COMMAND', help='one of the commands below')
    parser.add_argument('arguments', nargs=argparse.REMAINDER, metavar='...', help='its arguments')
    name = parser.parse_args(sys.argv[1:2]).command
    sys.argv = [f'{parser.prog} {name}', *sys.argv[2:]]
    script = commands[name]
    # not runpy, which would put the script's name into its usage lines
    exec(compile(script.read_bytes(), script, 'exec'), {'__name__': '__main__', '__file__': str(script)})


if __name__ == '__main__':
    main()
