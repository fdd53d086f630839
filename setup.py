"Packaging, read from settings.ini alone (no pkg_resources, which setuptools no longer ships)"

from configparser import ConfigParser
from pathlib import Path
from setuptools import setup

here = Path(__file__).parent
config = ConfigParser(delimiters=['='], interpolation=None)
config.read(here / 'settings.ini', encoding='utf8')
cfg = config['DEFAULT']


def words(key):
    return cfg.get(key, '').split()


extras = {k.removesuffix('_requirements'): words(k) for k in cfg if k.endswith('_requirements')}
extras['all'] = sorted({r for rs in extras.values() for r in rs})


def data_files():
    "Where `harkd run`, `harkd recipe` and `harkd explore` find their notebooks in an installed copy"
    recipes = sorted({p.parent for p in (here / 'nbs/recipes').rglob('*.json')})
    folders = [
        (here / 'nbs', '*.ipynb'),
        (here / 'apps', '*.ipynb'),
        *((r, '*.json') for r in recipes),
    ]
    return [
        (
            f'share/harkd/{d.relative_to(here).as_posix()}',
            sorted(p.relative_to(here).as_posix() for p in d.glob(pattern)),
        )
        for d, pattern in folders
    ]


setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    keywords=cfg['keywords'],
    author=cfg['author'],
    author_email=cfg['author_email'],
    url=cfg['git_url'],
    license='Apache-2.0',
    long_description=(here / 'README.md').read_text(encoding='utf8')
    if (here / 'README.md').exists()
    else '',
    long_description_content_type='text/markdown',
    python_requires='>=' + cfg['min_python'],
    packages=['harkd'],
    package_data={'harkd': ['models/*/*']},
    install_requires=words('requirements'),
    extras_require=extras,
    data_files=data_files(),
    entry_points={'console_scripts': words('console_scripts')},
    zip_safe=False,
)
