"""Showing a run elsewhere too: TensorBoard, Weights & Biases, Trackio, SwanLab, MLflow, through Trainer's own callbacks.

Each keeps one curve for one run, however often it was continued: they are told the run's id where they take one from outside
(wandb, SwanLab, Trackio), a folder of the run's own (TensorBoard), or are asked for the run that carries it (MLflow). What the
user has set in a tracker's own environment variables wins.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.errors import ConfigError, first_line
from engine.events import Event, Warned
from engine.extras import trackers
from engine.i18n import _
from engine.paths import with_its_name

TAG = "lora-tui.run"
"""MLflow gives its runs ids of its own; this tag holds ours."""


def guard(trainer: Any, tell: Callable[[Event], None]) -> None:
    """A tracker that fails must not end a night's training: one that cannot begin is an error of the settings, before the first
    step; one that fails later is taken out, and that is told once."""
    from transformers.integrations import integration_utils as stock

    kinds = {"tensorboard": stock.TensorBoardCallback, "wandb": stock.WandbCallback, "trackio": stock.TrackioCallback,
             "swanlab": stock.SwanLabCallback, "mlflow": stock.MLflowCallback}  # fmt: skip
    for name, kind in kinds.items():
        for callback in [one for one in trainer.callback_handler.callbacks if type(one) is kind]:
            callback.on_train_begin = _or_refuse(name, callback.on_train_begin)
            for event in ("on_log", "on_save", "on_train_end"):
                setattr(callback, event, _or_leave(name, callback, getattr(callback, event), trainer, tell))


def _or_refuse(name: str, begin: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(*arguments: Any, **options: Any) -> Any:
        try:
            return begin(*arguments, **options)
        except Exception as error:
            raise ConfigError(
                _("--report-to {name}: {name} did not begin").format(name=name), first_line(error),
                _("Mend its settings (its own environment variables), or leave it out with --report-to none."),
            ) from error  # fmt: skip

    return guarded


def _or_leave(
    name: str, callback: Any, handler: Callable[..., Any], trainer: Any, tell: Callable[[Event], None]
) -> Callable[..., Any]:
    def guarded(*arguments: Any, **options: Any) -> Any:
        if callback not in trainer.callback_handler.callbacks:
            return None
        try:
            return handler(*arguments, **options)
        except Exception as error:
            trainer.remove_callback(callback)
            words = _("{name} failed and is told nothing more; the run goes on. {why}")
            tell(Warned("tracker", words.format(name=name, why=first_line(error))))
            return None

    return guarded


def tracker_name(run_id: str, output_dir: Path) -> str:
    """The run's name in a tracker: readable, and the same each time it is continued."""
    return f"{with_its_name(output_dir).name}-{run_id[:6]}"


@contextlib.contextmanager
def tracked(config: RunConfig, run_id: str, output_dir: Path) -> Iterator[None]:
    """Inside, Trainer's callbacks find the run they are to go on with."""
    told = {key: value for key, value in _environment(config, run_id, output_dir).items() if key not in os.environ}
    os.environ.update(told)
    try:
        yield
    finally:
        for name in {"wandb", "swanlab"} & set(trackers(config)):  # Trainer's callbacks leave these two open
            with contextlib.suppress(Exception):
                importlib.import_module(name).finish()
        for key in told:
            os.environ.pop(key, None)


def _environment(config: RunConfig, run_id: str, output_dir: Path) -> Mapping[str, str]:
    names, told = trackers(config), {}
    if "tensorboard" in names:
        told["TENSORBOARD_LOGGING_DIR"] = str(output_dir / "tensorboard" / run_id)
    if "wandb" in names:
        told |= {"WANDB_RUN_ID": run_id, "WANDB_RESUME": "allow", "WANDB_DIR": str(output_dir), "WANDB_PROJECT": "lora-tui"}
    if "swanlab" in names:
        told |= {"SWANLAB_RUN_ID": run_id, "SWANLAB_RESUME": "allow", "SWANLAB_PROJECT": "lora-tui",
                 "SWANLAB_LOG_DIR": str(output_dir / "swanlab")}  # fmt: skip
    if "mlflow" in names:
        told |= {"MLFLOW_TAGS": json.dumps({TAG: run_id}), "MLFLOW_EXPERIMENT_NAME": "lora-tui"}
        told |= _or_refuse("mlflow", _known_to_mlflow)(run_id)
    return told


def _known_to_mlflow(run_id: str) -> dict[str, str]:
    mlflow = importlib.import_module("mlflow")
    if os.environ.get("MLFLOW_TRACKING_URI"):
        mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "lora-tui")
    found = mlflow.search_runs(
        experiment_names=[name], filter_string=f"tags.`{TAG}` = '{run_id}'", max_results=1, output_format="list"
    )
    return {"MLFLOW_RUN_ID": found[0].info.run_id} if found else {}
