"What an import costs, and what it must not bring along"
import subprocess,sys
import pytest

def python(code): return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout

def test_import_harkd_is_light():
    "Under 0.3 s on a quiet machine; the best of three, since this one may not be quiet"
    best = min(float(python("import time; t=time.perf_counter(); import harkd; print(time.perf_counter()-t)")) for _ in range(3))
    assert best<.3
    assert python("import harkd,sys; print('torch' in sys.modules, harkd.__version__)").startswith('False 0.')

@pytest.mark.parametrize('module', ['distill','explain','deploy','evaluate'])
def test_modules_leave_the_heavy_extras_alone(module):
    heavy = "('tensorflow','plotly','ipywidgets','jupyterlab','IPython','ray','sentence_transformers','captum','onnxruntime','onnx','aeon','papermill')"
    assert python(f"import sys; import harkd.{module}; print([m for m in {heavy} if m in sys.modules])").strip()=='[]'

def test_distill_by_name(): assert 'function' in python("from harkd.distill import distill; print(distill)")
