"""The wheel is a whole product: every program, configuration and page, away from the checkout."""

import shutil

import pytest

from tests.installed.conftest import blocks

TRAIN, VIZ, STANZA = (f"'scenestore[{extra}]'" for extra in ("train", "viz", "stanza"))

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


def test_the_wheel_has_everything_and_is_what_runs(installed, tmp_path):
    out = installed.works(
        tmp_path, "python -c 'import features, models, pipeline, workflows; print(models.__file__)'"
    )
    assert out.startswith(str(installed.site))
    helped = installed.works(tmp_path, "scenestore --help")
    for name in ("build", "train", "evaluate", "search", "report", "verify", "import", "parse"):
        assert f"\n  {name} " in helped
        installed.works(tmp_path, f"scenestore {name} --help")
    assert installed.works(tmp_path, "scenestore --version").startswith("scenestore 0.")
    assert "# Plug-ins" in installed.works(tmp_path, "scenestore docs plugins")
    wrong = installed.run(tmp_path, "scenestore trian sgm_f30k")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "Did you mean 'train'?" in wrong.stderr


def test_build_train_evaluate_report(installed, mine, tmp_path):
    shutil.copytree(mine, tmp_path, dirs_exist_ok=True)
    (build,) = [line for line in blocks("README.md")[0].lines if " build " in line]
    assert "nothing to build" in installed.works(tmp_path, build)
    small = "--model.options.embed_dim 32 --model.options.word_dim 32 --data.batch_size 8"
    train = f"scenestore train sgm_f30k --data.store stores/mine --run.max_steps 4 {small}"
    assert "done: best rsum" in installed.works(tmp_path, train)
    evaluate = "scenestore evaluate runs/sgm_f30k --store stores/mine --json found.json"
    installed.works(tmp_path, evaluate)
    report = "scenestore report stores/mine runs/sgm_f30k --images-dir photos"
    assert installed.works(tmp_path, report).strip() == str(tmp_path / "report.html")
    changes = "--papers vse --changes small --overrides '--run.max_steps 1 --data.batch_size 8'"
    compare = f"scenestore compare --store stores/mine --out out {changes}"
    assert "vse" in installed.works(tmp_path, compare)


@pytest.mark.parametrize(
    ("package", "command", "extra"),
    [
        ("torch", "scenestore train sgm_f30k --data.store stores/mine", TRAIN),
        ("torch", "python -m models.train sgm_f30k --data.store stores/mine", TRAIN),
        ("torch", "scenestore evaluate runs/x --store stores/mine", TRAIN),
        ("torch", "scenestore search stores/mine runs/x 'a dog'", TRAIN),
        ("torch", "scenestore embed runs/x --store stores/mine --out out", TRAIN),
        (
            "torch",
            "luigi --module workflows TrainModel --config sgm_f30k --store stores/mine",
            TRAIN,
        ),
        ("matplotlib", "scenestore draw stores/mine 00.jpg --out out.png", "matplotlib"),
        ("jinja2", "scenestore report stores/mine", VIZ),
        ("stanza", "scenestore parse --parser stanza 'A dog.'", STANZA),
    ],
)
def test_a_missing_optional_package_is_one_line_of_advice(
    installed, mine, tmp_path, package, command, extra
):
    shutil.copytree(mine, tmp_path, dirs_exist_ok=True)
    (tmp_path / "hidden" / package).mkdir(parents=True)
    program = (
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {package!r}:\n"
        f"            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
    )
    (tmp_path / "hidden" / "sitecustomize.py").write_text(program)
    if command.startswith("luigi"):
        command += " --local-scheduler"
    done = installed.run(tmp_path, command, PYTHONPATH=str(tmp_path / "hidden"))
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, done.stderr
    assert errors[0].endswith(f"pip install {extra}")
