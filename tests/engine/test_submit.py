"""Scripts for clusters. The batch script is run by bash with a real run in it; Slurm itself is not here, so its part is played by
signals."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.config import RunConfig
from engine.errors import ConfigError
from engine.sources import Source, as_flags, resolve
from engine.submit import PORTS, Job, beside, minutes_of, skypilot_task, slurm_script
from tui.cli import run_parser


def test_what_is_asked_of_the_cluster_stands_in_the_head(tmp_path: Path) -> None:
    job = Job("2-00:00:00", "a100:1", 8, "32G", "gpu", "lab", "a100|h100", "module load cuda")
    text = slurm_script(job, Path("a b"), tmp_path / "l o g", tmp_path, ["lora-tui", "--dataset", "it's; rm -rf /"])
    head = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert {"--time=2-00:00:00", "--gpus-per-node=a100:1", "--mem=32G", "--partition=gpu", "--account=lab", "--requeue",
            "--constraint='a100|h100'", "--job-name=lora-a-b", "--signal=B:USR1@300"} <= set(head)  # fmt: skip
    assert "\nmodule load cuda\nlora-tui --dataset 'it'\"'\"'s; rm -rf /' &\n" in text
    assert subprocess.run(["bash", "-n"], input=text.encode()).returncode == 0


def test_what_was_not_named_is_not_asked_for(tmp_path: Path) -> None:
    text = slurm_script(Job(gpus="0"), Path("o" * 90), tmp_path / "log", tmp_path, ["lora-tui"])
    assert [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")] == [
        f"job-name=lora-{'o' * 55}", f"output={tmp_path}/log", "open-mode=append", "nodes=1", "ntasks-per-node=1", "cpus-per-task=4",
        "time=24:00:00", "requeue", "signal=B:USR1@300",
    ]  # fmt: skip


@pytest.mark.parametrize(("nodes", "begun"), [(1, False), (1, True), (2, False), (2, True)])
def test_a_run_that_has_begun_is_gone_on_with_on_each_of_its_nodes(nodes: int, begun: bool, tmp_path: Path) -> None:
    tools = {
        "srun": '[ "$1" = --kill-on-bad-exit=0 ] && shift && exec "$@"',
        "scontrol": '[ "$2" = hostnames ] && echo "a $3" && echo b || echo "$4: NodeAddr=10.0.0.7 x"',
    }
    for name, body in tools.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "o u t").mkdir()
    if begun:
        (tmp_path / "o u t" / "run.toml").touch()
    first, again = (["sh", "-c", f'echo {word} "$@" > "g o t"', "x"] for word in ("first", "again"))
    text = slurm_script(Job(gpus="0", nodes=nodes), Path("o u t"), tmp_path / "log", tmp_path, first, again)
    path = f"{tmp_path}:{os.environ['PATH']}"
    node = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "list", "PATH": path}
    assert subprocess.run(["bash"], input=text.encode(), env=os.environ | node, timeout=20).returncode == 0
    flags = f" --nnodes 2 --node-rank 1 --rendezvous 10.0.0.7:{PORTS.start + 7}" if nodes == 2 else ""
    assert (tmp_path / "g o t").read_text() == ("again" if begun else "first") + flags + "\n"


def test_the_task_for_skypilot_asks_for_what_was_named_and_no_more() -> None:
    text = skypilot_task(Job(), Path("out/mine"), ["lora-tui", "a b"], [])
    assert yaml.safe_load(text) == {
        "name": "lora-mine", "resources": {"accelerators": "H100:1", "cpus": "4+", "use_spot": True}, "workdir": ".",
        "file_mounts": {"~/sky_workdir/out/mine": {"name": "YOUR-BUCKET", "mode": "MOUNT_CACHED"}},
        "setup": "pip install lora-tui\n", "run": "lora-tui 'a b'\n",
    }  # fmt: skip
    assert "index has lora-tui" in text.partition("\nsetup:")[0].splitlines()[-1]
    assert "H100 stands in" in text and "stands in" not in skypilot_task(Job(gpus="L4:1"), Path("out/mine"), ["a"], [])
    assert "\nrun: |\n  lora-tui 'a b'\n" in text and '  "~/sky_workdir/out/mine":\n' in text, "a person can read it"
    job = Job(gpus="0", nodes=2, memory="8G", setup="module load x")
    text = skypilot_task(job, Path("/data/mi\nne"), ["a"], ["x\ny"], ["b"])
    several = (
        ' --nnodes "$SKYPILOT_NUM_NODES" --node-rank "$SKYPILOT_NODE_RANK"'
        f' --rendezvous "$(echo "$SKYPILOT_NODE_IPS" | head -n 1):{PORTS.start}"'
    )
    assert yaml.safe_load(text) == {
        "name": "lora-mi-ne", "num_nodes": 2, "resources": {"cpus": "4+", "memory": "8+", "use_spot": True}, "workdir": ".",
        "volumes": {"/data/mi\nne": "YOUR-VOLUME"}, "setup": "pip install lora-tui\nmodule load x\n",
        "run": f"if [ -e '/data/mi\nne/run.toml' ]; then exec b{several}    # it has begun: go on\nelse exec a{several}\nfi\n",
    }  # fmt: skip
    assert "stands in" not in text and "or mounted here: x y\n" in text and "must see /data/mi ne at once" in text


@pytest.mark.parametrize(
    "wrong",
    [
        {"time": "tomorrow"},
        {"time": "9" * 5000},
        {"nodes": 0},
        {"gpus": "a b"},
        {"partition": "x\n#SBATCH --uid=0"},
        {"setup": "a\nb"},
        {"memory": "-1"},
    ],
)
def test_what_a_cluster_would_not_take_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Job(**wrong)


@pytest.mark.parametrize(
    ("time", "minutes"), [("90", 90), ("90:30", 90.5), ("1:30:00", 90), ("1-2", 1560), ("1-0:30", 1470)]
)
def test_a_time_limit_is_read_as_sbatch_reads_it(time: str, minutes: float) -> None:
    assert minutes_of(time) == minutes


@pytest.mark.parametrize("time", ["1", "5", "0:30", "9:59", "0:09:00", "0-0:05"])
def test_a_job_that_would_be_warned_as_soon_as_it_begins_is_refused_at_its_flag(time: str) -> None:
    with pytest.raises(ConfigError, match="--time") as refused:
        Job(time=time)
    assert "10" in refused.value.fix and "warned 5 minutes before" in refused.value.detail


@pytest.mark.parametrize("time", ["10", "0", "0:10:00", "1-0"])
def test_a_job_that_has_time_to_save_is_none_of_those(time: str) -> None:
    assert Job(time=time).time == time


@pytest.mark.parametrize(("memory", "gib"), [("64000M", 63), ("1T", 1024), ("32G", 32), ("2048", 2), ("1K", 1)])
def test_skypilot_is_asked_for_no_less_memory_than_was_named(memory: str, gib: int) -> None:
    task = yaml.safe_load(skypilot_task(Job(memory=memory), Path("out/mine"), ["lora-tui"], []))
    assert task["resources"]["memory"] == f"{gib}+"


def test_the_script_of_a_run_in_this_very_folder_stands_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert beside(Path()) == tmp_path / "here.sbatch"
    assert beside(Path("/")) == Path("/lora-tui.sbatch") and beside(Path("out/mine")) == Path("out/mine.sbatch")


def test_sbatch_is_called_where_it_is_and_its_refusal_is_told(
    lora_tui: Any, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    asked = ("submit", "--slurm", "--output", "out/mine", "--dataset", chat_file, "--model", tiny_model)
    for body, code, words in (
        ("echo Submitted batch job 12 $1", 0, "Submitted batch job 12 out/mine.sbatch"),
        ("echo sbatch: error: invalid partition >&2; exit 1", 2, "invalid partition"),
    ):
        (tools / "sbatch").write_text(f"#!/bin/sh\n{body}\n")
        (tools / "sbatch").chmod(0o755)
        done, said, error = lora_tui(*asked, PATH=f"{tools}:/usr/bin:/bin")
        assert done == code and words in said + error


def test_a_folder_whose_name_begins_as_a_flag_does_is_a_folder_to_the_script_and_to_sbatch(
    lora_tui: Any, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "sbatch").write_text("#!/bin/sh\necho given $1\n")
    (tools / "sbatch").chmod(0o755)
    asked = ("submit", "--slurm", "--output=-mine", "--dataset", chat_file, "--model", tiny_model)
    code, said, error = lora_tui(*asked, PATH=f"{tools}:/usr/bin:/bin")
    assert code == 0 and "given ./-mine.sbatch" in said, error
    lines = Path(tmp_path / "-mine.sbatch").read_text().splitlines()
    (saved,) = (line for line in lines if line.startswith("saved()"))
    (tmp_path / "-mine" / "checkpoint-7").mkdir(parents=True)
    done = subprocess.run(["bash", "-c", f"{saved}; saved"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "./-mine/checkpoint-7\n"
    (run,) = (shlex.split(line.removesuffix("&")) for line in lines if " -m tui " in line)
    assert run_parser().parse_args(run[4:]).output == "-mine"


def test_the_task_for_skypilot_is_yaml_with_the_same_command(lora_tui: Any, tiny_model: Path, chat_file: Path) -> None:
    code, said, error = lora_tui("submit", "--to", "skypilot", "--dry-run", "--gpus", "L4:1", "--output", "out/mine",
                                 "--dataset", chat_file, "--model", tiny_model, "--epochs", 2)  # fmt: skip
    assert code == 0, error
    task = yaml.safe_load(said)
    assert task["resources"]["accelerators"] == "L4:1"
    assert task["run"].strip().endswith("--resume auto") and "--epochs 2" in task["run"]
    assert str(chat_file) in said
    assert task["file_mounts"] == {"~/sky_workdir/out/mine": {"name": "YOUR-BUCKET", "mode": "MOUNT_CACHED"}}


def test_what_the_environment_a_file_and_the_last_answers_say_goes_with_the_job(
    lora_tui: Any, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    """Another machine has none of them."""
    (tmp_path / "mine.toml").write_text(
        'learning_rate = 0.003\nload_in_4bit = false\nepochs = 9\ntarget_modules = "q_proj,v_proj"\n'
    )
    asked = ("submit", "--slurm", "--dry-run", "--config", "mine.toml", "--epochs", 2, "--dataset", chat_file)
    code, said, error = lora_tui(
        *asked, LORA_TUI_MODEL=str(tiny_model), LORA_TUI_LORA_R="4", LORA_TUI_EPOCHS="7", LORA_TUI_NODE_RANK="0"
    )
    assert code == 0, error
    (line,) = (line for line in said.splitlines() if line.endswith("&") and "tui" in line)
    words = shlex.split(line.removesuffix("&"))
    flags = vars(run_parser().parse_args(words[words.index("tui") + 1 :]))
    assert {name: flags[name] for name in ("learning_rate", "load_in_4bit", "epochs", "target_modules", "model", "lora_r")} == {
        "learning_rate": "0.003", "load_in_4bit": False, "epochs": "2", "target_modules": "q_proj,v_proj",
        "model": str(tiny_model), "lora_r": "4"}  # fmt: skip
    assert flags["config"] is None and flags["resume"] == "auto" and "node_rank" not in flags

    state = tmp_path / "state"
    state.mkdir()
    answers = {"dataset": str(chat_file), "model": str(tiny_model), "seed": 5}
    (state / "wizard.json").write_text(
        json.dumps({"schema": 1, "answers": answers, "datasets": [], "models": [], "look": {}})
    )
    code, said, error = lora_tui("submit", "--to", "skypilot", "--dry-run", LORA_TUI_STATE=str(state))
    assert code == 0, error
    assert f"--dataset {chat_file}" in said and f"--model {tiny_model}" in said and "--seed 5" in said


def test_every_setting_can_be_said_in_flags() -> None:
    config = RunConfig(
        dataset="-odd name", load_in_4bit=True, accept=("dataset", "rng"), skip_rows="3,7", warmup=1e-05, batch_size=4
    )
    words = as_flags(dict(config))
    given = {name: value for name, value in vars(run_parser().parse_args(words)).items() if name in RunConfig.model_fields}
    assert resolve([Source("flag", "", given)]).config == config


def test_a_name_that_means_something_to_yaml_sbatch_or_a_shell_is_that_name(
    lora_tui: Any, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    out = tmp_path / "50%j: #1 'a' \"b\"\nc"
    asked = ("--output", out, "--dataset", chat_file, "--model", tiny_model)
    for nodes in (1, 2):
        code, said, error = lora_tui("submit", "--to", "skypilot", "--dry-run", "--gpus", "L4:1", "--nodes", nodes, *asked)
        assert code == 0, error
        task = yaml.safe_load(said)
        assert list(task["file_mounts" if nodes == 1 else "volumes"]) == [str(out)]
        assert str(out) in shlex.split(task["run"])
    plain = tmp_path / "50%j done"
    code, said, error = lora_tui(
        "submit", "--slurm", *("--output", plain, *asked[2:]), PATH=str(tmp_path / "no-sbatch-here")
    )
    assert code == 0, error
    assert f"sbatch '{plain}.sbatch'" in said
    assert f"#SBATCH --output='{tmp_path}/50%%j done.slurm-%j.log'" in Path(f"{plain}.sbatch").read_text()


def test_machines_of_one_task_for_skypilot_share_a_volume(lora_tui: Any, tiny_model: Path, chat_file: Path) -> None:
    code, said, error = lora_tui("submit", "--to", "skypilot", "--dry-run", "--gpus", "L4:2", "--nodes", 2, "--output", "/data/mine",
                                 "--dataset", chat_file, "--model", tiny_model)  # fmt: skip
    assert code == 0, error
    task = yaml.safe_load(said)
    assert task["num_nodes"] == 2 and "file_mounts" not in task
    assert task["volumes"] == {"/data/mine": "YOUR-VOLUME"}
    assert "--nproc 2" in task["run"] and "SKYPILOT_NODE_RANK" in task["run"]


def test_a_run_that_is_named_by_its_dataset_and_model_goes_where_it_would_go_here(
    lora_tui: Any, tiny_model: Path, chat_file: Path
) -> None:
    """As README's own example is written."""
    words = ("--time", "12:00:00", "--dataset", chat_file, "--model", tiny_model)
    code, said, error = lora_tui("submit", "--slurm", "--dry-run", *words)
    assert code == 0, error
    assert f"--output out/{chat_file.stem}-{tiny_model.name}" in said


def test_a_run_without_a_name_and_flags_that_cannot_go_are_refused(lora_tui: Any) -> None:
    assert lora_tui("submit", "--slurm")[0] == 2
    assert lora_tui("submit", "--dataset", "x")[0] == 2
    assert lora_tui("submit", "--slurm", "--demo")[0] == 2
    assert lora_tui("submit", "--slurm", "--nonsense", 1)[0] == 2


@pytest.mark.parametrize("where", ["here\ntouch made", "here"])
def test_a_name_with_a_line_break_is_refused_where_a_head_would_end_in_it(where: str, tmp_path: Path) -> None:
    def written() -> str:
        return slurm_script(Job(), Path("out/x"), tmp_path / where / "x.log", tmp_path / where, ["lora-tui"])

    if where == "here":
        assert "x.log" in written()
    else:
        with pytest.raises(ConfigError, match="line break"):
            written()
