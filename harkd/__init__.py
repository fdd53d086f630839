"""Tiny activity recognisers for one motion sensor, trained by teachers with richer input

    import harkd

    config = harkd.DistillConfig('spar', student='conv_8k', folds=2, seeds=1)
    run = harkd.run_distill(config)         # real recordings; some two minutes
    print(harkd.summary(run))               # teacher, student alone, distilled student

    explorer = harkd.explore(run.path)      # in JupyterLab: windows and their attributions
    folder = harkd.export(run.path)         # an ONNX file that agrees with its model
    bundle = harkd.Bundle(folder)           # needs numpy and onnxruntime, not torch

Each name is imported when it is first used. The chapters behind them are modules of their own:
`harkd.data`, `harkd.preprocess`, …; `distill`, `explain` and `explore` are both a module and, when
called, its main function.
"""

__version__ = "0.1.0"

import sys
from importlib import import_module
from types import ModuleType

_NAMES = {  # Name to the module that defines it
    'load_dataset': 'data',
    'from_pretrained': 'pretrain',
    'DistillConfig': 'distill',
    'run_distill': 'distill',
    'summary': 'distill',
    'open_run': 'distill',
    'distill': 'distill',
    'explain': 'explain',
    'explore': 'explore',
    'export': 'formats',
    'Bundle': 'runtime',
}
__all__ = [*_NAMES, '__version__']


class _CallableModule(ModuleType):
    "A module that is called as its function of the same name"

    def __call__(self, *args, **kwargs):
        return self._function(*args, **kwargs)

    @property
    def _function(self):
        return vars(self)[self.__name__.rpartition('.')[2]]

    @property
    def __signature__(self):  # tooltips and `help` show the parameters of the function
        from inspect import signature

        return signature(self._function)


class _Package(ModuleType):
    "Makes the modules `distill`, `explain` and `explore` callable, however they are imported"

    def __setattr__(self, name, value):
        if isinstance(value, ModuleType) and _NAMES.get(name) == name:
            value.__class__ = _CallableModule
        super().__setattr__(name, value)


def __getattr__(name):
    if name not in _NAMES:
        raise AttributeError(f"module 'harkd' has no attribute '{name}'")
    module = import_module(f'harkd.{_NAMES[name]}')
    value = module if _NAMES[name] == name else getattr(module, name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_NAMES})


sys.modules[__name__].__class__ = _Package
