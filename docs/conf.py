"Configuration of the documentation site (Sphinx with MyST-NB); `make docs` builds it"

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

project = 'harkd'
author = 'harkd developers'
copyright = '2026 onwards, harkd developers'
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.viewcode', 'docments', 'mathml']
root_doc = 'index'
templates_path = []
exclude_patterns = ['docs', 'apps', 'tests', '**.ipynb_checkpoints']

# Chapters are shown with the outputs that are stored in them; nothing is executed
nb_execution_mode = 'off'
nb_remove_code_source = False
myst_heading_anchors = 4
myst_enable_extensions = ['dollarmath', 'amsmath']
suppress_warnings = ['mystnb.unknown_mime_type']

autodoc_inherit_docstrings = False
autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
python_use_unqualified_type_names = True

html_theme = 'furo'
html_math_renderer = 'mathml'
html_title = 'harkd'
html_show_sourcelink = False
html_copy_source = False
html_static_path = ['static']
html_css_files = ['wide.css']
html_last_updated_fmt = None
