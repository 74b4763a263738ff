"""The receipt's second half: what was loaded, held against what was saved. Imports torch; see receipt.py for the whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from engine.checkpoints.adapter import BASE_LAYER, PAIRS
from engine.checkpoints.checkpoint import Checkpoint
from engine.checkpoints.inspect import HIGHEST, MOMENTS
from engine.checkpoints.manifest import Manifest, Probe
from engine.checkpoints.rates import saved_rates
from engine.i18n import _, n_
from engine.resume.differences import Difference, geometry_words
from engine.resume.logged import schedule_words
from engine.resume.receipt import Item, same, unknown
from engine.training.digests import (
    optimizer_digest,
    optimizer_steps,
    rng_digest,
    state_digest,
    step_of,
    steps_of,
    tensors_digest,
)
from engine.training.probe import TOLERANCE, agrees
from engine.training.ranks import Ranks


def adapter_in_memory(model: Any) -> dict[str, torch.Tensor]:
    """The adapter's tensors under the names PEFT saves them with: the parameters themselves, not what they hold just now, so that
    they may be asked for once in a run."""
    from peft import get_peft_model_state_dict
    from torch.distributed.tensor import DTensor

    # What is shared out among processes is base model; PEFT would gather all of it in each of them.
    own = {name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if not isinstance(tensor, DTensor)}
    return dict(get_peft_model_state_dict(model, own, save_embedding_layers=False))


def adapter_in_file(folder: Path) -> dict[str, torch.Tensor]:
    """The adapter's tensors as saved: safetensors, or the older adapter_model.bin (its opcodes were listed by inspect)."""
    from safetensors.torch import load_file

    if (folder / "adapter_model.safetensors").is_file():
        return dict(load_file(folder / "adapter_model.safetensors"))
    return dict(torch.load(folder / "adapter_model.bin", map_location="cpu", weights_only=True))


def without_base_weights(saved: Mapping[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    """`saved` without what is of the base model: with an adapter on the embeddings PEFT saves these too. Where they are not those of
    `model`, to the last bit, they stay: the base model is another one, or they were trained."""
    base = {name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if BASE_LAYER in name}
    return {name: one for name, one in saved.items() if BASE_LAYER not in name or not _equal(one, base.get(name))}


def _equal(one: torch.Tensor, other: torch.Tensor | None) -> bool:
    """Whether both are the same numbers in the format of one of them: a base model in float32 may be loaded in bfloat16."""
    from torch.distributed.tensor import DTensor

    if other is None or isinstance(other, DTensor) or one.shape != other.shape:
        return False
    here = other.detach().cpu()
    return torch.equal(one.to(here.dtype), here) or torch.equal(one, here.to(one.dtype))


def keys_item(saved: Mapping[str, torch.Tensor], built: Mapping[str, torch.Tensor]) -> Item:
    """adapter_keys: names and shapes of the file against those of the model that was built for it."""
    shapes = {name: tuple(tensor.shape) for name, tensor in saved.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in built.items()}
    matched = sum(1 for name, shape in wanted.items() if shapes.get(name) == shape)
    odd = sorted(name for name in {*shapes, *wanted} if shapes.get(name) != wanted.get(name))
    total = len({*shapes, *wanted})
    return Item(
        "adapter_keys",
        f"{total}/{total}",
        f"{matched}/{total}",
        "failed" if odd else "ok",
        _("Missing, unexpected or of another shape: {names}").format(names=", ".join(odd[:3])) if odd else "",
    )


def values_item(saved: Mapping[str, torch.Tensor], loaded: Mapping[str, torch.Tensor], manifest: Manifest | None) -> Item:
    """adapter_values: every tensor in memory against the file, and the file against the manifest."""
    same_type = {name: tensor.to(loaded[name].dtype) if name in loaded else tensor for name, tensor in saved.items()}
    found = tensors_digest(loaded)
    if manifest is not None and manifest.adapter.sha256 != tensors_digest(saved):
        return Item(
            "adapter_values",
            manifest.adapter.sha256[:12],
            found[:12],
            "failed",
            _("The file's tensors are not those that were saved."),
        )
    item = same("adapter_values", tensors_digest(same_type), found, _("The tensors in memory are not those of the file."))
    other = [name for name in saved if saved[name].dtype != loaded[name].dtype] if item.verdict == "ok" else []
    if not other:
        return item
    if all(torch.equal(saved[name].cpu().double(), loaded[name].cpu().double()) for name in other):
        return replace(item, verdict="changed", detail=_("Equal values in another number format."))
    formats = {"saved": _format(saved[other[0]]), "now": _format(loaded[other[0]])}
    words = _("{name} was rounded from {saved} to {now} while it was loaded.").format(name=other[0], **formats)
    return replace(item, verdict="failed", detail=words)


def not_there(item: Item, saved: Mapping[str, torch.Tensor], steps: int) -> Item:
    """adapter_values as `item`, failed where the file is sound and yet no adapter: half of each pair is zero, as before the first
    step. `steps`: that were done at a rate above zero."""
    pairs = [(saved[name], saved[name.replace(one, other)]) for one, other in PAIRS for name in saved if one in name]
    if item.verdict == "failed" or not steps or any(bool(one.any()) and bool(other.any()) for one, other in pairs):
        return item
    words = _("The adapter is not there: one half of each of its layers is zero, as before the first step.")
    return replace(item, found=_("without effect"), verdict="failed", detail=words)


def steps_at_a_rate(optimizer: Any, checkpoint: Checkpoint) -> int:
    """Optimizer steps that were done at a rate above zero, as far as is known: the first of a warmup has none."""
    rates = [row.learning_rate for row in checkpoint.history if row.learning_rate is not None]
    return max(0, min(optimizer_steps(optimizer), default=0) - 1) if not rates or any(rates) else 0


def _format(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def optimizer_item(
    model: Any, optimizer: Any, folder: Path, step: int, manifest: Manifest | None, not_loaded: str | None = None
) -> Item:
    """optimizer: Adam's step is the run's, each trained parameter of `model` has moments that Adam can go on from, and those in memory
    are the ones that were saved. `not_loaded`: the library's words."""
    if (wrong := impossible_moments(model, optimizer)) is not None:
        return Item("optimizer", f"step {step}", wrong[0], "failed", wrong[1], final=True)
    saved = _saved_moments(folder) if manifest is None else {}
    expected, steps = _taken(folder, step, manifest, steps_of(saved)), optimizer_steps(optimizer)
    if steps != {expected}:
        shown = ", ".join(map(str, sorted(steps))) or _("none")
        return Item(
            "optimizer",
            f"step {expected}",
            f"step {shown}",
            "failed",
            " ".join(filter(None, (_("The optimizer was not restored, or is of another step."), not_loaded))),
        )
    if manifest is None and (lost := _without_moments(model, optimizer)):
        words = _("{name} was trained and has no moments; they would start anew.").format(name=lost[0])
        return Item("optimizer", f"step {expected}", _("without {count} of them").format(count=len(lost)), "failed", words)
    digest = manifest.optimizer if manifest is not None else state_digest(saved)
    return same("optimizer", digest, optimizer_digest(optimizer), _("The moments are not those that were saved."))


def impossible_moments(model: Any, optimizer: Any) -> tuple[str, str] | None:
    """What is there, and why the next step cannot be computed from it; None where it can. Adam's kernel trusts shape and layout: it
    would read and write beyond a smaller tensor. Of a negative exp_avg_sq the root is no number."""
    amsgrad = {one for group in optimizer.param_groups if group.get("amsgrad") for one in group["params"]}
    for name, parameter in _trained(model):
        state = optimizer.state.get(parameter)
        if not state:
            continue
        tensors = [(key, state.get(key)) for key in (*MOMENTS, *((HIGHEST,) if parameter in amsgrad else ()))]
        for key, tensor in tensors:
            if not isinstance(tensor, torch.Tensor):
                return _("no {key}").format(key=key), _("{name} has no {key}.").format(name=name, key=key)
            if tensor.shape != parameter.shape or not _laid_out_alike(tensor, parameter) or not tensor.is_floating_point():
                words = _("{key} of {name} is not of its shape, {shape}.")
                return f"{key} {list(tensor.shape)}", words.format(key=key, name=name, shape=list(parameter.shape))
        if bool((state["exp_avg_sq"] < 0).any()):
            words = _("exp_avg_sq of {name} is negative, which the mean of squares never is.").format(name=name)
            return _("negative exp_avg_sq"), words
        if step_of(state.get("step")) is None:
            return _("no {key}").format(key="step"), _("{name} has no {key}.").format(name=name, key="step")
    return None


def _laid_out_alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.stride() == other.stride() or (one.is_contiguous() and other.is_contiguous())


def _trained(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    """The trained parameters under the names they are saved with."""
    found = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    return [(name.replace(".default.", ".").removesuffix(".default"), one) for name, one in found]


def _without_moments(model: Any, optimizer: Any) -> list[str]:
    """Names of trained parameters that Adam keeps nothing of although they were trained. A layer that no row came through has none:
    its lora_B is the zero that it began as."""
    trained = dict(_trained(model))
    layers = {name: _other_half(name) for name in trained}
    untouched = {name for name, half in layers.items() if half in trained and not bool(trained[half].detach().any())}
    return [name for name, one in trained.items() if not optimizer.state.get(one) and name not in untouched]


def _other_half(name: str) -> str:
    """The half of a layer's adapter that is zero before the first step; of an embedding that is A."""
    return name.replace(".lora_A", ".lora_B").replace(".lora_embedding_B", ".lora_embedding_A")


def _saved_moments(folder: Path) -> Mapping[Any, Mapping[str, Any]]:
    """What another tool's optimizer.pt keeps of each parameter; nothing where it is not laid out as torch's."""
    content = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
    state = content.get("state") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(entry, Mapping) for entry in state.values()):
        return {}
    return state


def _taken(folder: Path, step: int, manifest: Manifest | None, told: set[int]) -> int:
    """Optimizer steps that were taken up to the run's `step`: fewer where float16 skipped some, which its loss scale did not fit.
    `told`: what the saved state of another tool's run says of them."""
    if manifest is not None:
        return manifest.steps_done if manifest.step == step else step
    skipped = (folder / "scaler.pt").is_file() and len(told) == 1 and max(told) < step
    return max(told) if skipped else step


def scheduler_item(scheduler: Any, folder: Path, step: int, manifest: Manifest | None, rescheduled: bool) -> Item:
    """scheduler: it stands at the run's step, and the next rate is the saved one unless the schedule was changed."""
    rates = saved_rates(folder / "scheduler.pt") if manifest is None else None
    expected, rate = _taken(folder, step, manifest, {rates.step} if rates else set()), float(scheduler.get_last_lr()[0])
    if scheduler.last_epoch != expected:
        return Item(
            "scheduler",
            f"step {expected}",
            f"step {scheduler.last_epoch}",
            "failed",
            _("The scheduler was not restored, or is of another step."),
        )
    saved = manifest.schedule.next_learning_rate if manifest is not None else rates.next if rates is not None else None
    if saved is None or rescheduled:
        return Item("scheduler", f"step {expected}", f"step {expected}, next {rate:.3g}", "ok")
    if rates is not None and math.isclose(rate, saved, rel_tol=1e-6, abs_tol=1e-9 * rates.peak):
        saved = rate  # the other tool's formula may round differently
    return same("scheduler", f"next {saved!r}", f"next {rate!r}", _("The next learning rate is not the saved one."))


def rng_item(
    folder: Path, manifest: Manifest | None, ranks: Ranks, device: str, dropout: float, not_loaded: str | None = None
) -> Item:
    """rng: the random states in memory against the saved digest, each process against its own. `device`: of this run; `dropout`: its
    adapter's; `not_loaded`: why they could not be read."""
    now = rng_digest()
    if manifest is None and not_loaded is not None:
        words = _("They cannot be read ({why}); the random states start anew (dropout only).").format(why=not_loaded)
        return Item("rng", "rng_state.pth", now[:12], "changed", words)
    if manifest is not None and manifest.device != device:
        words = _("Each kind of device has its own; what this one draws starts anew (dropout only).")
        return Item("rng", f"{manifest.rng[:12]} ({manifest.device})", f"{now[:12]} ({device})", "changed", words)
    if device == "mps" and dropout:
        words = _("Trainer keeps none of an Apple GPU; dropout starts anew.")
        return Item("rng", manifest.rng[:12] if manifest is not None else "", now[:12], "changed", words)
    if manifest is not None and manifest.geometry.world_size != ranks.world:
        words = _("Each process has its own, and there are other processes now; they start anew (dropout only).")
        return Item("rng", _processes(manifest.geometry.world_size), _processes(ranks.world), "changed", words)
    if manifest is not None and not ranks.first:
        return same("rng", manifest.others[ranks.rank - 1].rng, now, _("The random states are not those that were saved."))
    if manifest is None and not (folder / "rng_state.pth").is_file():
        words = _("It was saved by several processes, each with its own; the random states start anew (dropout only).")
        return Item("rng", _("one for each process"), now[:12], "changed", words)
    if manifest is None:
        return unknown("rng", now, _("Restored from rng_state.pth."))
    return same("rng", manifest.rng, now, _("The random states are not those that were saved."))


def _processes(count: int) -> str:
    return n_("{count} process", "{count} processes", count).format(count=count)


def restored_facts(trainer: Any) -> dict[str, str]:
    """Digests of what this process has restored; all processes of a run must have the same."""
    return {
        "adapter": tensors_digest(adapter_in_memory(trainer.model))[:12],
        "optimizer": optimizer_digest(trainer.optimizer)[:12],
    }


def plan_items(
    differences: tuple[Difference, ...],
    saved: Manifest | None,
    now: Mapping[str, str],
    logged: Mapping[str, tuple[str, str]],
) -> list[Item]:
    """schedule and batch_geometry: as the plan said. `now`: item -> what it is in this run; `logged`: item -> what another tool's log
    tells of it (logged.py), and the same of this run."""
    was = _geometry_and_schedule(saved) if saved is not None else {}
    items = []
    for name in ("schedule", "batch_geometry"):
        found = [difference for difference in differences if difference.item == name]
        if found:
            items.append(
                Item(
                    name,
                    found[0].saved,
                    found[0].asked,
                    "changed",
                    (
                        _("It is assumed: {reason}.")
                        if found[0].winner == "assumed"
                        else _("What was asked wins: {reason}.")
                    ).format(reason=found[0].reason),
                )
            )
        elif saved is None and name in logged:
            words = _("By what the other tool logged; what was asked wins.")
            items.append(same(name, *logged[name], words, otherwise="changed"))
        elif saved is None:
            items.append(unknown(name, now[name]))
        else:
            items.append(same(name, was[name], now[name], _("It is no longer what was saved."), otherwise="changed"))
    return items


def _geometry_and_schedule(saved: Manifest) -> dict[str, str]:
    schedule, geometry = saved.schedule, saved.geometry
    return {
        "schedule": schedule_words(schedule.scheduler, schedule.learning_rate, schedule.warmup_steps, schedule.total_steps),
        "batch_geometry": geometry_words(geometry.batch_size, geometry.grad_accum, geometry.world_size),
    }


def precision_item(manifest: Manifest | None, precision: str, device: str) -> Item:
    """precision: another number format or device is told and goes on."""
    if manifest is None:
        return unknown("precision", f"{precision} on {device}")
    return same(
        "precision",
        f"{manifest.precision} on {manifest.device}",
        f"{precision} on {device}",
        _("This machine's precision wins; the loss may differ in its last digits."),
        otherwise="changed",
    )


def scaler_item(folder: Path, precision: str, scaler: Any) -> Item:
    """scaler: float16 needs the saved loss scale. `scaler`: torch's GradScaler of this run; None where there is none."""
    if precision != "float16":
        return Item("scaler", "-", "-", "ok", _("Only float16 needs one."))
    now, path = scaler.state_dict(), folder / "scaler.pt"
    if not path.is_file():
        return Item("scaler", _("missing"), f"scale {now['scale']:g}", "changed", _("The loss scale starts anew."))
    saved = torch.load(path, map_location="cpu", weights_only=True)
    was, found = (f"scale {state.get('scale')}, {state.get('_growth_tracker')} steps" for state in (saved, now))
    return same("scaler", was, found, _("The loss scale was not restored."))


def probe_item(saved: Probe, comparable: bool, now: float, base: float, precision: str) -> Item:
    """probe_loss: the loss on the fixed rows when saved and now, beside the bare base model's. `comparable`: the rows are those that
    were scored when it was saved."""
    found = _("{now:.4f} (base {base:.4f})").format(now=now, base=base)
    if not comparable:
        return unknown(
            "probe_loss", found, _("The rows that were scored then are not there as they were; these are others.")
        )
    looser = max(precision, saved.precision, key=lambda one: TOLERANCE.get(one, 0.0))  # either may have rounded
    good = agrees(saved.loss, now, looser)
    gone = agrees(base, now, precision) and not agrees(saved.loss, base, precision)
    why = _("The adapter is not there: this is the base model's loss.") if gone else _("The model is not the saved one.")
    expected = _("{now:.4f} (base {base:.4f})").format(now=saved.loss, base=saved.base_loss)
    return Item("probe_loss", expected, found, "ok" if good else "failed", "" if good else why)


def adapter_config_item(checkpoint: Checkpoint, built: Any) -> Item:
    """adapter_config: rank, alpha and the rest of the saved adapter_config.json against the adapter that was built."""
    shape = checkpoint.adapter
    assert shape is not None
    expected = f"r {shape.r}, alpha {shape.lora_alpha:g}, rslora {bool(shape.raw.get('use_rslora'))}"
    found = f"r {built.r}, alpha {built.lora_alpha:g}, rslora {bool(built.use_rslora)}"
    item = same("adapter_config", expected, found, _("The adapter was built with another shape than it was saved with."))
    saved_dropout = float(shape.raw.get("lora_dropout") or 0)
    if item.verdict == "ok" and saved_dropout != built.lora_dropout:
        return Item(
            "adapter_config",
            f"{expected}, dropout {saved_dropout:g}",
            f"{found}, dropout {built.lora_dropout:g}",
            "changed",
            _("What was asked wins."),
        )
    return item
