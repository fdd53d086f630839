"A Sphinx extension: what the comments of a signature say, as the fields of its docstring"

import inspect
import re

from fastcore.docments import docments

RETURN = 'return'


def fields_of(obj):
    "Argument to comment, for arguments that have one"
    try:
        comments = docments(obj)
    except (TypeError, ValueError, OSError, SyntaxError):
        return {}
    return {name: text for name, text in comments.items() if isinstance(text, str) and text.strip()}


def one_line(text):
    return re.sub(r'\s+', ' ', text).strip()


def escaped(text):
    "Plain text as reStructuredText: `x` becomes code, nothing else is markup"
    out = ''
    for part in re.split(r'(`[^`]+`)', one_line(text)):
        code = part.startswith('`')
        if out.endswith('`') and part[:1].isalnum():
            out += r'\ '  # the plural of a name
        out += f'`{part}`' if code else re.sub(r'([*_|`\\])', r'\\\1', part)
    return out


def add_comments(app, what, name, obj, options, lines):
    "Escape the docstring, which is plain text, and add the comments of the signature"
    documented = [escaped(line) for line in lines]
    comments = fields_of(obj) if inspect.isroutine(obj) or inspect.isclass(obj) else {}
    returned = comments.pop(RETURN, '')
    documented.append('')
    documented += [f':param {argument}: {escaped(text)}' for argument, text in comments.items()]
    if returned:
        documented.append(f':returns: {escaped(returned)}')
    lines[:] = documented


def setup(app):
    app.connect('autodoc-process-docstring', add_comments)
    return {'parallel_read_safe': True}
