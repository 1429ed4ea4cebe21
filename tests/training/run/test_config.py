import dataclasses
from dataclasses import dataclass, field

import pytest

from modeling_dvpo.training.algorithms.critic_arguments import CriticArguments, TrainingArguments
from modeling_dvpo.training.data.arguments import RewardDataArguments
from modeling_dvpo.training.errors import ConfigError, RewardDataError
from modeling_dvpo.training.run.config import REPLACES, parse_config
from modeling_dvpo.training.trainers.dvpo_trainer import ARGUMENTS as OF_POLICIES

OF_CRITICS = (CriticArguments, RewardDataArguments, TrainingArguments)
REQUIRED = ["--model_name_or_path", "m", "--dataset", "d", "--output_dir", "o"]


@dataclass(kw_only=True)
class Model:
    """Which model."""

    name: str = field(metadata={"help": "Its name."})
    revision: str | None = None


@dataclass(kw_only=True)
class Options:
    """How it runs."""

    rate: float = 0.5
    steps: int = 7
    fast: bool = False
    careful: bool = True
    layout: bool | None = None
    names: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)


def parse(*arguments):
    return parse_config((Model, Options), list(arguments))


@pytest.fixture
def yaml_file(tmp_path):
    def write(text, name="recipe.yaml"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def training_arguments(*arguments):
    return parse_config(OF_CRITICS, [*arguments, *REQUIRED])[2]


class TestPrecedence:
    def test_default_then_yaml_then_command_line(self, yaml_file):
        recipe = yaml_file("name: from-yaml\nsteps: 3\n")
        model, options = parse(recipe, "--steps", "4")
        assert (model.name, options.steps, options.rate) == ("from-yaml", 4, 0.5)

    def test_a_later_file_wins(self, yaml_file):
        first, second = yaml_file("name: a\nsteps: 3\n", "1.yaml"), yaml_file("steps: 4\n", "2.yaml")
        model, options = parse(first, second)
        assert (model.name, options.steps) == ("a", 4)

    @pytest.mark.parametrize(
        ("text", "flags", "kept", "gone"),
        [
            ("eval_fraction: 0.05", ["--eval_dataset", "e"], {"eval_dataset": "e"}, {"eval_fraction": 0.0}),
            ("eval_fraction: 0.05", ["--eval_split=test"], {"eval_split": "test"}, {"eval_fraction": 0.0}),
            (
                "eval_dataset: e\neval_split: test",
                ["--eval_fraction", "0.1"],
                {"eval_fraction": 0.1},
                {"eval_dataset": None, "eval_split": None},
            ),
            (
                "reward_funcs: [a:b, c:d]\nreward_weights: [1, 2]",
                ["--reward_funcs", "e:f"],
                {"reward_funcs": ["e:f"]},
                {"reward_weights": []},
            ),
            ("max_steps: 60", ["--num_train_epochs=2"], {"num_train_epochs": 2.0}, {"max_steps": -1}),
            ("revision: v1", [], {"model_name_or_path": "m"}, {"revision": None}),
        ],
    )
    def test_what_is_given_later_replaces_what_it_contradicts(self, yaml_file, text, flags, kept, gone):
        """`lora.yaml --eval_dataset e` was refused for the recipe's own eval_fraction; a recipe's max_steps silently
        beat --num_train_epochs, and its revision was looked for in another model."""
        parts = parse_config(OF_CRITICS, [yaml_file(text), *flags, *REQUIRED])
        for name, value in (kept | gone).items():
            assert [getattr(part, name) for part in parts if hasattr(part, name)] == [value], name

    def test_a_later_file_replaces_too(self, yaml_file):
        first, second = yaml_file("eval_fraction: 0.05\n", "1.yaml"), yaml_file("eval_split: test\n", "2.yaml")
        _, data, _ = parse_config(OF_CRITICS, [first, second, *REQUIRED])
        assert (data.eval_fraction, data.eval_split) == (0.0, "test")

    def test_what_is_given_at_once_and_contradicts_is_refused(self, yaml_file):
        with pytest.raises(RewardDataError, match="eval_fraction or a held-out set .* not both"):
            training_arguments(yaml_file("eval_fraction: 0.05\neval_split: test\n"))
        with pytest.raises(RewardDataError, match="eval_fraction or a held-out set .* not both"):
            training_arguments("--eval_fraction=0.05", "--eval_split=test")

    def test_every_setting_that_is_replaced_exists(self):
        there = {field.name for one in (*OF_CRITICS, *OF_POLICIES) for field in dataclasses.fields(one)}
        assert {*REPLACES, *(old for names in REPLACES.values() for old in names)} <= there

    def test_equals_sign_and_dashes(self):
        assert parse("--name=a=b", "--steps=2")[0].name == "a=b"

    def test_settings_of_one_parse_do_not_reach_the_next(self, yaml_file):
        parse(yaml_file("name: a\nnames: [x]\n"))
        assert parse("--name", "a")[1].names == []


class TestValues:
    def test_yaml_number_without_a_dot(self, yaml_file):
        # YAML 1.1 reads 1e-5 as text
        assert parse(yaml_file("name: a\nrate: 1e-5\n"))[1].rate == 1e-5

    def test_a_text_setting_given_as_a_number_is_text(self, yaml_file):
        assert parse(yaml_file("name: a\nrevision: 12\n"))[0].revision == "12"

    @pytest.mark.parametrize(
        ("yaml", "flags", "expected"),
        [
            ("fast: true", [], (True, True, None)),
            ("fast: yes\ncareful: off\nlayout: false", [], (True, False, False)),
            ("careful: false", ["--fast"], (True, False, None)),
            ("fast: true", ["--fast", "false", "--no_careful"], (False, False, None)),
            ("layout: true", ["--layout", "false"], (False, True, False)),
        ],
    )
    def test_booleans(self, yaml_file, yaml, flags, expected):
        options = parse(yaml_file(f"name: a\n{yaml}\n"), *flags)[1]
        assert (options.fast, options.careful, options.layout) == expected

    def test_lists(self, yaml_file):
        recipe = yaml_file("name: a\nnames: [x, y]\nweights: [1, 2.5]\n")
        assert parse(recipe)[1].names == ["x", "y"]
        assert parse(recipe)[1].weights == [1.0, 2.5]
        assert parse(recipe, "--names", "z")[1].names == ["z"]

    def test_one_name_is_a_list_of_one(self, yaml_file):
        assert parse(yaml_file("name: a\nnames: x\n"))[1].names == ["x"]

    def test_an_empty_entry_is_the_default(self, yaml_file):
        options = parse(yaml_file("name: a\nsteps:\nnames: []\nlayout: null\n"))[1]
        assert (options.steps, options.names, options.layout) == (7, [], None)


class TestErrors:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("name: a\nstep: 3\n", "recipe.yaml: unknown key 'step'; did you mean 'steps'"),
            ("name: a\nzzzzzz: 3\n", "unknown key 'zzzzzz'; see --help"),
            ("name: a\n3: 3\n", "unknown key 3"),
            ("- name\n", "holds a list; it must be a mapping"),
            ("name: [a\n", "is not YAML"),
            ("name: a\nrate: fast\n", "Argument --rate: invalid float value: 'fast'"),
            ("name: a\nsteps: 2.5\n", "Argument --steps: invalid int value: '2.5'"),
            ("name: a\nfast: perhaps\n", "Truthy value expected: got perhaps"),
            ("steps: 3\n", "The following arguments are required: --name"),
        ],
    )
    def test_in_the_file(self, yaml_file, text, message):
        with pytest.raises(ConfigError, match=message):
            parse(yaml_file(text))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--name", "a", "--stepps", "3"], "Unknown flag '--stepps'; did you mean '--steps'"),
            (["--stepps=3"], "Unknown flag '--stepps'; did you mean '--steps'"),
            (["--name", "a", "--steps", "many"], "Argument --steps: invalid int value: 'many'"),
            (["--name", "a", "--steps", "3", "stray"], "Unexpected argument 'stray'"),
            (["--steps", "3"], "required: --name"),
            (["missing.yaml"], "There is no config file missing.yaml"),
        ],
    )
    def test_on_the_command_line(self, arguments, message):
        with pytest.raises(ConfigError, match=message):
            parse(*arguments)


class TestTrainCriticSettings:
    def test_critic_loss_as_yaml_mapping_and_as_json(self, yaml_file):
        expected = {"risk": 0, "kappa": 1e-3, "form": "paper"}
        recipe = yaml_file("critic_loss:\n  risk: 0\n  kappa: 0.001\n  form: paper\n")
        assert training_arguments(recipe).critic_loss == expected
        json_text = '{"risk": 0, "kappa": 1e-3, "form": "paper"}'
        assert training_arguments("--critic_loss", json_text).critic_loss == expected
        assert training_arguments(recipe, "--critic_loss", '{"risk": 1}').critic_loss == {"risk": 1}
        assert training_arguments().critic_loss == {}

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--critic_loss", "{risk: 0"], "critic_loss is '{risk: 0': Expecting property name"),
            (["--critic_loss", "[1]"], "it is a list, and must be a mapping"),
            (["--critic_loss", '{"rsk": 0}'], "no field 'rsk'; did you mean 'risk'"),
            (["--critic_loss", '{"kappa": -1}'], "kappa must be positive"),
            (["--critic_loss", '{"risk": "low"}'], "critic_loss is "),
            (["--returns", "td"], "returns is 'td'; it must be one of monte_carlo, lambda"),
            (["--target", "mean"], "target is 'mean'; it must be one of index, sampled"),
            (["--trainable", "body"], "trainable is 'body'; it must be one of all, lora, heads"),
            (["--lr_scheduler_type", "cosin"], "lr_scheduler_type is 'cosin'; it must be one of cosine, linear"),
            (["--best_metric", "accuracy"], "best_metric is 'accuracy'; it must be one of explained_variance"),
            (["--gamma", "1.1"], "gamma is 1.1; it must be between 0 and 1"),
            (["--lam", "nan"], "lam is nan; it must be between 0 and 1"),
            (["--warmup_ratio", "3"], "warmup_ratio is 3.0; it must be between 0 and 1"),
            (["--rows_per_step", "0"], "rows_per_step is 0; it must be at least 1"),
            (["--save_total_limit", "0"], "save_total_limit is 0; it must be at least 1"),
            (["--learning_rate", "nan"], "learning_rate is nan; it must be a finite number of at least 0"),
            (["--eval_steps", "-1"], "eval_steps is -1; it must be a finite number of at least 0"),
            (["--max_grad_norm", "0"], "max_grad_norm is 0.0; it must be more than 0"),
            (["--num_train_epochs", "0"], "num_train_epochs is 0.0; it must be more than 0"),
            (["--report_to", "tensorbord"], "report_to names 'tensorbord'; it must be among accelerate's trackers"),
        ],
    )
    def test_refused(self, flags, message):
        with pytest.raises(ConfigError, match=message):
            training_arguments(*flags)

    def test_heads_learn_ten_times_faster_unless_told_otherwise(self):
        assert training_arguments("--learning_rate", "1e-3").heads_learning_rate == pytest.approx(1e-2)
        assert training_arguments("--heads_learning_rate", "1e-3").heads_learning_rate == 1e-3

    def test_help_names_every_setting_once(self, capsys):
        with pytest.raises(SystemExit, match="0"):
            training_arguments("--help")
        shown = capsys.readouterr().out
        for dataclass_type in OF_CRITICS:
            for setting in dataclasses.fields(dataclass_type):
                assert shown.count(f"--{setting.name} ") == 1, setting.name
