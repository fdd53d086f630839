"README.md and RESULTS.md from their notebooks, and the index of nbs/results"

import base64
import json
import re
import subprocess
import sys
from pathlib import Path

from docs.results_index import RESULTS, ROOT, results_index

IMAGES = ROOT / 'docs' / 'images'
PAGES = {'README.md': 'index.ipynb', 'RESULTS.md': '10_results.ipynb'}


def source(cell):
    return ''.join(cell['source'])


def has_tag(cell, tag):
    return tag in cell['metadata'].get('tags', [])


def from_root(markdown):
    "Markdown of a notebook in nbs/, with its relative links as the repository's root needs them"

    def target(match):
        link = match[2]
        if re.match(r'[a-z]+:|#|/', link):
            return match[0]
        return f'{match[1]}{link[3:] if link.startswith("../") else f"nbs/{link}"})'

    return re.sub(r'(\]\()([^)\s]+)\)', target, markdown)


def directive(cell, key):
    found = re.search(rf'^#\| {key}: (.+)$', source(cell), re.M)
    return found[1].strip() if found else ''


def show_output(cell, output):
    "Markdown of one output; a picture is a file of docs/images, named by the cell's label"
    data = output.get('data', {'text/plain': output.get('text', '')})
    if 'text/markdown' in data:
        return from_root(''.join(data['text/markdown']).strip('\n'))
    if 'image/png' in data:
        return f'![{directive(cell, "fig-alt")}](docs/images/{directive(cell, "label")}.png)'
    return '```text\n' + ''.join(data['text/plain']).rstrip() + '\n```'


def show_cell(cell):
    "Markdown of one cell; code is left out where it is tagged hide-input"
    if has_tag(cell, 'remove-cell'):
        return ''
    if cell['cell_type'] == 'markdown':
        return from_root(source(cell).strip())
    shown = [show_output(cell, o) for o in cell['outputs']]
    if not has_tag(cell, 'hide-input'):
        shown.insert(0, f'```python\n{source(cell)}\n```')
    return '\n\n'.join(shown)


def read_cells(notebook):
    return json.loads((ROOT / 'nbs' / notebook).read_text(encoding='utf8'))['cells']


def page(notebook):
    "The Markdown page of an executed notebook"
    return '\n\n'.join(filter(None, map(show_cell, read_cells(notebook)))) + '\n'


def pictures(notebook):
    "File name to bytes, for the pictures of an executed notebook"
    cells = [c for c in read_cells(notebook) if c['cell_type'] == 'code']
    outputs = [(c, o.get('data', {})) for c in cells for o in c['outputs']]
    return {
        f'{directive(cell, "label")}.png': base64.b64decode(''.join(data['image/png']))
        for cell, data in outputs
        if 'image/png' in data
    }


def execute(notebook):
    "Run a notebook in place, and clean it as the hooks do"
    tools = Path(sys.executable).parent
    subprocess.run(
        [tools / 'jupyter', 'execute', '--inplace', notebook], cwd=ROOT / 'nbs', check=True
    )
    subprocess.run([tools / 'nbdev_clean', '--fname', f'nbs/{notebook}'], cwd=ROOT, check=True)


def main():
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, notebook in PAGES.items():
        execute(notebook)
        (ROOT / name).write_text(page(notebook), encoding='utf8')
        for picture, data in pictures(notebook).items():
            (IMAGES / picture).write_bytes(data)
    (RESULTS / 'README.md').write_text(results_index(), encoding='utf8')


if __name__ == '__main__':
    main()
