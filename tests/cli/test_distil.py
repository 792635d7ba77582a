"""`tandem distil`: from a target to a draft that the services speak with; what cannot be done is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from transformers import LlamaConfig

from tandem.distil.recipe import Recipe
from tandem.distil.space import in_words, needed
from tandem.distil.work import WorkError, WorkFolder
from tests.cli.processes import refusal, run, service, tandem
from tests.distil.answers import SHAPE, random_model
from tests.models.checks import refused
from tests.support.tokens import byte_tokenizer

_TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
RECIPE = """
[prompts]
files = ["prompts.txt"]
templates = false
self_written = 0
[data]
tokens = 3000
answer_tokens = 24
prompt_tokens = 64
kept = 32
held_out = 0.1
shard_tokens = 1000
batch = 16
dtype = "float32"
[student]
layers = 2
vocabulary = 200
[training]
epochs = 3
batch_tokens = 512
report_steps = 10
learning_rate = 3e-3
checkpoint_seconds = 0.02
"""


@pytest.fixture(scope="session")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `target` and `recipe.toml`."""
    folder = tmp_path_factory.mktemp("maker")
    target = folder / "target"
    config = LlamaConfig(**{**SHAPE, "vocab_size": 257, "max_position_embeddings": 512})
    random_model(config).save_pretrained(target)
    byte_tokenizer(257)._tokenizer.save(str(target / "tokenizer.json"))
    (target / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    (target / "chat_template.jinja").write_text(_TEMPLATE)
    prompts = [f"Tell me of the number {number} and of {chr(97 + number % 26)}." for number in range(300)]
    (folder / "prompts.txt").write_text("\n".join(prompts))
    (folder / "recipe.toml").write_text(f'target = "{target}"\n{RECIPE}')
    return folder


@pytest.fixture(scope="session")
def made(maker: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A draft, made in one go, and what the command said."""
    return maker / "draft", tandem("distil", "--recipe", maker / "recipe.toml", "--out", maker / "draft", "--curve")


def test_it_makes_a_folder_with_all_that_a_draft_has(
    maker: Path, made: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    folder, done = made
    assert (done.returncode, done.stdout) == (0, f"{folder}\n"), done.stderr
    assert {path.name for path in folder.iterdir()} - {"training.png"} == {
        "README.md", "config.json", "generation_config.json", "layers.int8.safetensors", "metrics.json", "recipe.toml",
        "tandem.json", "vocabulary.safetensors", "work",
    }  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["made_on"] == "cpu" and metrics["origins"] == [0, 3]
    assert metrics["vocabulary"]["size"] == 200
    assert 0 < metrics["greedy_agreement"] < 1 and 0 < metrics["one_minus_tv"] < 1
    curve = metrics["curve"]
    assert [set(point) for point in curve] == [{"tokens", "greedy_agreement", "one_minus_tv"}] * 4
    shares = [point["tokens"] / metrics["data"]["tokens"] for point in curve]
    assert shares == pytest.approx([1 / 8, 1 / 4, 1 / 2, 1], abs=0.02)
    assert metrics["fit"]["greedy_agreement"]["tokens"] == metrics["data"]["tokens"] > 2000
    assert f"{metrics['greedy_agreement']:.3f}" in (folder / "README.md").read_text()
    recipe = tomllib.loads((folder / "recipe.toml").read_text())
    assert recipe["prompts"]["files"] == ["../prompts.txt"] and recipe["training"]["total_variation"] == 0.5


def test_it_says_how_far_it_is_and_what_it_needs(made: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    lines = made[1].stderr.splitlines()
    for words in (
        "disk: about ", "answers: ", "the draft can say 200 of 257 tokens", "training: 0 of ", "tokens/s", "held out",
        "greedy agreement", "with ten times the data",
    ):  # fmt: skip
        assert any(words in line for line in lines), words


@pytest.fixture(scope="session")
def head(maker: Path, made: tuple[Path, subprocess.CompletedProcess[str]]) -> Path:
    """A draft that reads the target's features, from the same answers."""
    done = tandem(
        "distil", "--recipe", maker / "recipe.toml", "--kind", "features", "--layers", "1", "--answers",
        made[0] / "work/answers", "--out", maker / "head",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return maker / "head"


@pytest.fixture(scope="session", params=["layers", "features"])
def endpoint(
    request: pytest.FixtureRequest, maker: Path, made: tuple[Path, subprocess.CompletedProcess[str]]
) -> Iterator[str]:
    folder = made[0] if request.param == "layers" else request.getfixturevalue("head")
    with (
        service("target_service", "--model", maker / "target", "--dtype", "float32") as target,
        service("draft_service", "--model", folder, "--dtype", "float32") as draft,
        service(
            "orchestrator", "--target", f"127.0.0.1:{target}", "--draft", f"127.0.0.1:{draft}", "--tokenizer",
            maker / "target",
        ) as port,
    ):  # fmt: skip
        yield f"127.0.0.1:{port}"


@pytest.mark.parametrize(
    "flags",
    [("--accept", "exact"), ("--accept", "coupled", "--temperature", "1", "--seed", "5")],
    ids=["greedy", "seed"],
)
def test_the_services_speak_with_it_and_say_what_the_target_alone_does(endpoint: str, flags: tuple[str, ...]) -> None:
    words = ("complete", "Tell me of the number 1234.", "--max-tokens", "60", "--json", "--endpoint", endpoint)
    drafted, alone = (tandem(*words, *flags, "--policy", policy) for policy in ("on", "off"))
    assert drafted.returncode == alone.returncode == 0, drafted.stderr + alone.stderr
    ours, theirs = json.loads(drafted.stdout), json.loads(alone.stdout)
    assert ours["text"] == theirs["text"] and len(ours["text"]) > 10
    assert ours["usage"]["accepted_prediction_tokens"] > 0


def test_what_a_head_reads_is_told_and_nothing_else_runs_it(head: Path) -> None:
    facts = json.loads((head / "metrics.json").read_text())
    assert (facts["kind"], facts["layers"], facts["origins"]) == ("features", 1, [3])
    assert "It reads the target's features" in (head / "README.md").read_text()
    done = run(sys.executable, "-m", "target_service", "--model", head, "--port", "0")
    assert done.returncode == 2 and "head reads its target's features: only a draft service can run it" in done.stderr
    for flags in (("--look-ahead-rows", "4"), ("--for-target", str(head))):
        done = run(sys.executable, "-m", "draft_service", "--model", head, "--port", "0", *flags)
        assert done.returncode == 2 and f"{flags[0]} does not go with head, which reads features" in done.stderr


def test_run_again_it_has_nothing_to_do_and_another_recipe_is_refused_by_field(
    maker: Path, made: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    folder = made[0]
    metrics, layers = (folder / "metrics.json").read_bytes(), (folder / "layers.int8.safetensors").read_bytes()
    done = tandem("distil", "--out", folder, "--curve")
    assert (done.returncode, done.stdout) == (0, f"{folder}\n"), done.stderr
    assert f"going on in {folder}" in done.stderr
    assert (folder / "metrics.json").read_bytes() == metrics
    assert (folder / "layers.int8.safetensors").read_bytes() == layers
    line = refusal(tandem("distil", "--out", folder, "--epochs", "4"))
    assert line.startswith("training.epochs is 4.0, but ") and "was begun with 3.0" in line and "--fresh" in line


def test_another_draft_learns_from_the_same_answers(
    maker: Path, made: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    answers = made[0] / "work/answers"
    before = {path.name: path.stat().st_mtime_ns for path in answers.glob("shard-*")}
    other = maker / "smaller"
    with FileLock(answers / ".generation-0.lock"):  # as somebody has it who makes more of them
        done = tandem(
            "distil", "--recipe", maker / "recipe.toml", "--layers", "1", "--vocabulary", "0", "--weights", "bfloat16",
            "--answers", answers, "--out", other,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {path.name: path.stat().st_mtime_ns for path in answers.glob("shard-*")} == before
    assert not (other / "vocabulary.safetensors").exists() and (other / "layers.safetensors").exists()
    recipe = tomllib.loads((other / "recipe.toml").read_text())
    assert (recipe["student"]["layers"], recipe["data"]["tokens"]) == (1, 3000)  # flags over the recipe


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "--target names the model"),
        (("--target", "x", "--initial", "1,b"), "--initial is '1,b'"),
        (("--target", "x", "--epochs", "0"), "--epochs: Input should be greater than 0"),
        (("--target", "x", "--weights", "int4"), "--weights: Input should be 'bfloat16' or 'int8'"),
        (("--recipe", "nowhere.toml"), "nowhere.toml: "),
        (("--target", "x", "--layers", "0"), "--layers"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_bad_flags_are_refused_by_name(flags: tuple[str, ...], words: str, tmp_path: Path) -> None:
    assert words in refusal(tandem("distil", "--out", tmp_path / "draft", *flags))
    assert not (tmp_path / "draft").exists()


def test_a_recipe_with_an_unknown_field_is_refused_by_it(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('target = "x"\n[training]\nepoch = 3\n')
    line = refusal(tandem("distil", "--recipe", tmp_path / "recipe.toml", "--out", tmp_path / "draft"))
    assert "recipe.toml: training.epoch: Extra inputs are not permitted" in line


def test_help_loads_no_torch() -> None:
    code = "import sys, tandem.cli.app; print(sorted({'torch', 'transformers', 'safetensors'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_two_runs_in_one_folder_do_not_collide(tmp_path: Path) -> None:
    with WorkFolder(tmp_path).alone():
        with refused(WorkError, "another run is at work in", str(tmp_path), "--out"), WorkFolder(tmp_path).alone():
            pass
    with WorkFolder(tmp_path).alone():
        pass


def test_only_what_changes_no_number_may_change_on_the_way(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path)
    (work.path / "training").mkdir(parents=True)
    first = Recipe.model_validate({"target": "x", "prompts": {"files": ["a"]}})
    assert not work.begin(Recipe(target="y"))
    assert work.begin(first)  # until something was trained
    (work.path / "training/step-00000001.safetensors").write_text("")
    assert work.begin(first.model_copy(update={"weights": "bfloat16"}))
    for facts, words in (
        ({"target": "y"}, ["target is \"y\"", "begun with \"x\""]),
        ({"target": "x", "prompts": {"files": []}}, ["prompts.files is []", 'begun with ["a"]']),
        ({"target": "x", "prompts": {"files": ["a"]}, "revision": "1"}, ['revision is "1"', "begun with unset"]),
    ):
        with refused(WorkError, *words, "--fresh"):
            work.begin(Recipe.model_validate(facts))


def test_answers_that_changed_while_a_draft_learnt_from_them_are_refused(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path)
    (work.path / "training").mkdir(parents=True)
    work.learn_from({"tokens": 3})
    work.learn_from({"tokens": 4})
    (work.path / "training/step-00000001.safetensors").write_text("")
    work.learn_from({"tokens": 4})
    with refused(WorkError, "the answers in", "have changed since", "--fresh"):
        work.learn_from({"tokens": 5})


def test_training_anew_keeps_the_answers(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path)
    for name in ("answers/shard-00000.safetensors", "training/step-1.safetensors", "training-0.5/step-1.safetensors"):
        (work.path / name).parent.mkdir(parents=True)
        (work.path / name).write_text("")
    work.begin(Recipe(target="x"))
    work.forget()
    assert [str(path.relative_to(work.path)) for path in work.path.rglob("*") if path.is_file()] == [
        "answers/shard-00000.safetensors"
    ]
    assert work.recipe() is None


def test_the_disk_that_is_needed_is_what_is_written(made: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder = made[0]
    shards = list((folder / "work/answers").glob("shard-*.safetensors"))
    recipe = Recipe.read(folder / "work/recipe.toml")
    parameters = json.loads((folder / "metrics.json").read_text())["parameters"]
    told = needed(recipe, parameters)
    written = sum(path.stat().st_size for path in shards)
    assert 0.6 * written < told.answers < 1.7 * written
    kept = sum(path.stat().st_size for path in (folder / "work/training").iterdir())
    assert kept < told.training < 2.5 * kept


def test_sizes_are_told_in_words() -> None:
    assert [in_words(count) for count in (7, 999, 1500, 25_000_000, 3.2e9, 4e15)] == [
        "7 bytes", "999 bytes", "1.5 KB", "25 MB", "3.2 GB", "4000 TB",
    ]  # fmt: skip
