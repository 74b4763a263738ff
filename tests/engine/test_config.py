from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.answers import gather
from engine.config import RunConfig, flag, number_kind
from engine.errors import ConfigError
from engine.sources import OTHER_VARIABLES, Source, environment, read_toml, resolve, to_toml


def flags(**values: Any) -> Source:
    return Source("flag", "", values)


def test_all_wrong_settings_are_told_at_once_each_by_the_name_its_source_gave_it() -> None:
    sources = [flags(epochs="x", lora_r="0"), Source("environment", "", {"scheduler": "zigzag"}),
               Source("config", "my.toml", {"colour": "red"})]  # fmt: skip
    with pytest.raises(ConfigError) as error:
        resolve(sources)
    told = error.value.detail
    assert all(name in told for name in ("--epochs", "--lora-r", "LORA_TUI_SCHEDULER", "my.toml: colour"))


@pytest.mark.parametrize("name, words", [("load_in_4bit", "true, false"), ("activation_checkpointing", "auto, true, false")])
def test_a_switch_that_is_neither_on_nor_off_is_one_problem_in_our_words(name: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        resolve([environment({f"LORA_TUI_{name.upper()}": "maybe"})])
    assert error.value.title == f"LORA_TUI_{name.upper()}: 'maybe' is not one of {words}"


def test_a_stronger_source_wins_and_is_named() -> None:
    resolved = resolve([flags(epochs="2"), Source("environment", "", {"epochs": "5", "seed": "7"})])
    assert (resolved.config.epochs, resolved.config.seed) == (2, 7)
    assert resolved.origin == {"epochs": "flag", "seed": "environment"}


def test_a_default_is_no_answer_of_a_person() -> None:
    assert not resolve([]).asked("epochs")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", "0"), ("epochs", "nan"), ("epochs", "inf"), ("learning_rate", "-1"), ("learning_rate", "2"),
        ("batch_size", "0"), ("batch_size", "many"), ("max_steps", "0"), ("lora_dropout", "1"), ("eval_fraction", "1"),
        ("keep", "0"), ("seed", "-1"), ("max_length", "4"), ("warmup", "-0.1"), ("accept", "probe_loss"),
        ("accept", "adapter_values"), ("target_modules", "(a+)+$"), ("target_modules", ""), ("scheduler", "polynomial"),
        ("dataset", ""), ("output", "a\0b"),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_an_error_and_never_a_default(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as error:
        resolve([flags(**{name: value})])
    assert flag(name) in str(error.value)


@pytest.mark.parametrize("name", [name for name in RunConfig.model_fields if number_kind(name)])
def test_true_and_false_are_no_numbers(tmp_path: Path, name: str) -> None:
    for word in ("true", "false"):
        (tmp_path / "run.toml").write_text(f"{name} = {word}")
        with pytest.raises(ConfigError, match=f"{name}: {word} is not a (whole )?number"):
            resolve([read_toml(tmp_path / "run.toml")])


def test_a_schema_version_that_is_true_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("schema_version = true")
    with pytest.raises(ConfigError, match="schema_version"):
        read_toml(tmp_path / "run.toml")


@pytest.mark.parametrize("name", ["batch_size", "save_steps", "nproc", "max_steps", "epochs"])
def test_digits_of_other_scripts_are_no_number(name: str) -> None:
    with pytest.raises(ConfigError, match=flag(name)):
        resolve([flags(**{name: "５"})])


@pytest.mark.parametrize("value", [5, True, 1.5])
def test_items_that_are_no_list_are_refused_with_those_that_can_be(value: Any) -> None:
    with pytest.raises(ConfigError, match="chat_template"):
        resolve([Source("config", "run.toml", {"accept": value})])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("parallel", "deepspeed"), ("logits", "all")), (("parallel", "deepspeed"), ("load_in_4bit", "true")),
        (("parallel", "fsdp2"), ("load_in_4bit", "true")), (("eval_fraction", "0.1"), ("eval_dataset", "rows.jsonl")),
    ],
)  # fmt: skip
def test_what_cannot_go_together_is_told_with_both_names(one: tuple[str, str], other: tuple[str, str]) -> None:
    with pytest.raises(ConfigError) as error:
        resolve([flags(**dict((one, other)))])
    assert flag(one[0]) in str(error.value)
    assert flag(other[0]) in str(error.value)


configs = st.builds(
    RunConfig,
    dataset=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1).filter(str.strip),
    epochs=st.floats(0.01, 1000),
    learning_rate=st.floats(1e-9, 1),
    lora_alpha=st.floats(0.5, 1000),
    batch_size=st.just("auto") | st.integers(1, 1000),
    max_steps=st.none() | st.integers(1, 10**6),
    accept=st.just(()) | st.just(("dataset", "rng")),
    load_in_4bit=st.booleans(),
)


@given(configs)
def test_run_toml_gives_back_the_configuration_it_was_written_from(config: RunConfig) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.toml"
        path.write_text(to_toml(config, "abc"), encoding="utf-8")
        assert resolve([read_toml(path)]).config == config


@given(st.binary(max_size=200))
def test_no_file_of_settings_breaks_the_reader(content: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.toml"
        path.write_bytes(content)
        with contextlib.suppress(ConfigError):
            resolve([read_toml(path)])


@pytest.mark.parametrize(("name", "names"), [("target_modules", ["q_proj", "v_proj"]), ("report_to", ["wandb", "trackio"])])
def test_a_settings_file_may_write_names_as_a_list(tmp_path: Path, name: str, names: list[str]) -> None:
    file = tmp_path / "names.toml"
    file.write_text(f"{name} = {names}\n")
    assert getattr(resolve([read_toml(file)]).config, name) == ",".join(names)


def test_the_environment_is_read_by_the_names_of_the_settings_only() -> None:
    source = environment({"LORA_TUI_EPOCHS": "4", "LORA_TUI_LANG": "zh_CN", "LORA_TUI_SEED": "", "EPOCHS": "9"})
    assert dict(source.values) == {"epochs": "4"}


def test_a_misspelt_variable_is_refused_with_what_was_meant() -> None:
    with pytest.raises(ConfigError, match="LORA_TUI_EPOCH: there is no such setting · did you mean LORA_TUI_EPOCHS"):
        gather({}, environ={"LORA_TUI_EPOCH": "5"})
    with pytest.raises(ConfigError, match="LORA_TUI_LR: there is no such setting · did you mean LORA_TUI_LEARNING_RATE"):
        gather({}, environ={"LORA_TUI_LR": "5"})
    others = {"LORA_TUI_MEET": "here:1", "LORA_TUI_CACHE": "/tmp", "LORA_TUI_STATE": "/tmp", "LORA_TUI_ASCII": "1"}
    assert environment({**others, "LORA_TUI_BOGUS": ""}).values == {}


def test_each_variable_that_is_read_anywhere_is_a_setting_or_known_to_be_none() -> None:
    root = Path(__file__).parents[2]
    code = [path.read_text(encoding="utf-8") for room in ("engine", "tui") for path in (root / room).rglob("*.py")]
    read = set(re.findall(r"[\"']LORA_TUI_([A-Z0-9_]+)[\"']", "\n".join(code)))
    assert {"KEYS", "STATE", "CACHE"} <= read
    assert {name.lower() for name in read} <= {*OTHER_VARIABLES, *RunConfig.model_fields}


def test_what_a_checkpoint_says_and_no_run_can_do_is_to_be_named_as_a_flag() -> None:
    with pytest.raises(ConfigError, match="checkpoint-3: epochs") as refused:
        resolve([Source("run", "out/checkpoint-3", {"epochs": 1e9})])
    assert "as flags" in refused.value.fix


def test_epochs_that_are_asked_for_are_not_overruled_by_steps_of_an_earlier_start() -> None:
    started = Source("run", "run.toml", {"max_steps": 12, "epochs": 3.0})
    assert resolve([flags(epochs="5"), started]).config.max_steps is None
    assert resolve([flags(learning_rate="1e-4"), started]).config.max_steps == 12
    assert resolve([flags(epochs="5", max_steps="9"), started]).config.max_steps == 9


def test_rows_to_leave_out_are_bounded_in_all_not_each_range_alone() -> None:
    from engine.named import MAX_SKIPPED, parse_rows

    assert len(parse_rows(f"1-{MAX_SKIPPED}")) == MAX_SKIPPED
    with pytest.raises(ValueError, match="range of rows"):
        parse_rows(",".join(f"{index * MAX_SKIPPED + 1}-{(index + 1) * MAX_SKIPPED}" for index in range(20)))


def test_a_number_of_very_many_digits_in_a_file_of_settings_is_told(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("seed = " + "1" * 5000)
    with pytest.raises(ConfigError, match="is not TOML"):
        read_toml(tmp_path / "my.toml")
