"The documentation site in _docs/html: from a copy of the sources, with nothing executed or fetched"

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / '_docs' / 'html'
PAGES = ('RESULTS.md', 'CONTRIBUTING.md', 'CHANGELOG.md')
LINKED = ('LICENSE', 'settings.ini', 'constraints.txt', 'Makefile')
FOLDERS = ('nbs', 'docs', 'apps', 'tests')
TOCTREE = '\n\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{entries}\n```\n'
PARTS = {
    'Data': ('00', '01'),
    'Building blocks': ('02',),
    'Models and losses': ('03', '04'),
    'Distillation': ('05', '06'),
    'Evaluation': ('07',),
    'Explanation': ('08',),
    'Deployment': ('09',),
}


def chapters():
    found = sorted(p.name for p in (ROOT / 'nbs').glob('[0-9]*.ipynb'))
    return [c for c in found if not c.startswith('10_')]


def copy_sources(target):
    "The pages, chapters and what they link to, in the layout of the repository"
    ignore = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints', '*.lock')
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, target / folder, ignore=ignore)
    for name in (*PAGES, *LINKED):
        shutil.copy(ROOT / name, target)
    for name in ('index.ipynb', '10_results.ipynb'):
        (target / 'nbs' / name).unlink()


def toctree(caption, entries):
    return TOCTREE.format(caption=caption, entries='\n'.join(entries))


def write_index(target):
    "README is the first page; the tables of contents follow it"
    parts = [toctree('Project', (*PAGES, 'nbs/results/README.md', 'api'))]
    for caption, heads in PARTS.items():
        entries = [f'nbs/{c}' for c in chapters() if c.startswith(heads)]
        parts.append(toctree(caption, entries))
    page = (ROOT / 'README.md').read_text(encoding='utf8') + ''.join(parts)
    (target / 'index.md').write_text(page, encoding='utf8')


def relink(text):
    "Links of a page to README and to the index chapter lead to the first page"
    return re.sub(r'\]\((\.\./)*(?:README\.md|nbs/index\.ipynb|index\.ipynb)', r'](/index.md', text)


def write_api(target):
    "One page for each module, in the order of its chapters"
    (target / 'api').mkdir()
    names = []
    for chapter in chapters():
        module = chapter.removesuffix('.ipynb').split('_', 1)[1]
        if not (ROOT / 'harkd' / f'{module}.py').exists():
            continue
        title = f'harkd.{module}'
        text = (
            f'{title}\n{"=" * len(title)}\n\n'
            f'Defined in :doc:`/nbs/{chapter.removesuffix(".ipynb")}`.\n\n'
            f'.. automodule:: harkd.{module}\n   :members:\n'
        )
        (target / 'api' / f'{module}.rst').write_text(text, encoding='utf8')
        names.append(f'api/{module}')
    page = '# API reference\n\nEvery public function and class, by module.\n\n```{toctree}\n'
    (target / 'api.md').write_text(page + '\n'.join(names) + '\n```\n', encoding='utf8')


def holds_only_imports(cell):
    if cell['cell_type'] != 'code' or re.search(r'^[%!]', cell['source'], re.M):
        return False
    statements = ast.parse(cell['source']).body
    return all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in statements)


def prepare_chapter(path):
    "Drop cells that say `hide` and the directives of nbdev, and fold the cells of imports"
    notebook = json.loads(path.read_text(encoding='utf8'))
    cells = []
    for cell in notebook['cells']:
        text = ''.join(cell['source'])
        if re.search(r'^#\|\s*(?:hide|default_exp)\b', text, re.M):
            continue
        cell['source'] = relink(re.sub(r'^#\|.*\n?', '', text, flags=re.M))
        if holds_only_imports(cell):
            cell['metadata'].setdefault('tags', []).append('hide-input')
        cells.append(cell)
    notebook['cells'] = cells
    path.write_text(json.dumps(notebook), encoding='utf8')


def prepare(target):
    copy_sources(target)
    write_index(target)
    write_api(target)
    for path in (target / 'nbs').glob('*.ipynb'):
        prepare_chapter(path)
    for page in (*PAGES, 'nbs/results/README.md'):
        path = target / page
        path.write_text(relink(path.read_text(encoding='utf8')), encoding='utf8')


def build(site=SITE):
    "Build the site; a warning is an error"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / 'source'
        source.mkdir()
        prepare(source)
        command = [sys.executable, '-B', '-m', 'sphinx', '-b', 'html', '-W', '--keep-going', '-q']
        command += ['-c', source / 'docs', '-d', Path(folder) / 'doctrees', source]
        shutil.rmtree(site, ignore_errors=True)
        environment = {**os.environ, 'PYTHONPATH': str(ROOT)}  # the API is that of this checkout
        subprocess.run([*command, site], check=True, cwd=folder, env=environment)
    (site / '.nojekyll').touch()
    print(f'the documentation is in {site}; open {site / "index.html"}')


if __name__ == '__main__':
    build()
