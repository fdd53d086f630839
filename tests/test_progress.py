"A command can follow trainings that run in other processes"

from joblib.externals.loky import get_reusable_executor

from harkd.distill import DistillConfig, run_distill


def test_every_training_reports_its_first_step_and_its_epochs(tmp_path, monkeypatch):
    file = tmp_path / 'progress'
    monkeypatch.setenv('HARKD_PROGRESS', str(file))
    get_reusable_executor().shutdown()  # workers of earlier tests do not know the variable
    config = DistillConfig(
        'synth', student='conv_8k', epochs=2, teacher_epochs=1, seeds=1, folds=2, jobs=2
    )
    run_distill(config, tmp_path / 'run')
    reported = file.read_text().splitlines()
    lines = [line for line in reported if ', epoch ' in line]
    assert len(lines) == 2 * (1 + 2 + 2)
    first_steps = [line for line in reported if ', step 1/' in line]
    assert len(first_steps) == 2 * 3 and len(reported) == len(lines) + len(first_steps)
    assert any(line.startswith('distilled (fold 2of2, seed 0), epoch 2/2') for line in lines)
