"""One folder, judged: what it is, how far it can be trusted, and what is wrong with it.

Nothing of it is executed or loaded. Each file is judged by the module that knows its format; here their verdicts are put together
into a grade (contract C4). A problem never hides another: all are told, since "the optimizer is missing" and "the weights hold
NaN" lead to different ways on. That digests match proves that nothing changed, not that it is harmless, so a manifest adds to
the structural checks and replaces none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.checkpoints import adapter, kinds
from engine.checkpoints.adapter import Weights
from engine.checkpoints.checkpoint import AdapterShape, Checkpoint, Grade, Problem
from engine.checkpoints.files import Entry, Unsound, list_folder, look, not_a_file, reading_once, unreadable
from engine.checkpoints.manifest import MANIFEST_NAME, Manifest
from engine.checkpoints.pickles import Listing
from engine.checkpoints.proof import Proof, check_manifest, read_manifest
from engine.checkpoints.rates import saved_weight_decay
from engine.checkpoints.state import STATE_NAME, TrainerState, last_eval_loss, last_loss, read_state
from engine.checkpoints.torch_file import check_torch_file
from engine.i18n import _

UNKNOWN_RUN = "unknown"
"""The run of a checkpoint looked at alone, without a manifest; `scan` puts in what lineage finds."""

OPTIMIZER, SCHEDULER, SCALER, RNG = "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth"
MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of each parameter (torch.optim.AdamW), which is what is trained with here."""
HIGHEST = "max_exp_avg_sq"
"""What it keeps besides where it is amsgrad."""
OF_ADAMW = {*MOMENTS, HIGHEST, "step", "lr", "initial_lr"}
"""All tensors that an optimizer.pt of it may hold: a learning rate that was given as one, too."""
SAID_BY_ADAMW = {"amsgrad", "correct_bias"}
"""One of these stands in its groups: in torch's always, and in that of older versions of transformers."""
NOT_GONE_ON = {
    "num_bad_epochs": "ReduceLROnPlateau",
    "_schedulers": "SequentialLR",
    "_schedule_phases": "OneCycleLR",
    "max_lrs": "CyclicLR",
}
"""Key in a scheduler.pt -> the scheduler of torch that it shows. Their files do not tell one peak and one step, or they move Adam's
betas too."""
RNG_OF_RANK = re.compile(r"rng_state_(0|[1-9][0-9]*)\.pth", re.ASCII)


@dataclass(frozen=True)
class _TrainingState:
    state: TrainerState | None
    whole: bool
    problems: tuple[Problem, ...]


def inspect_folder(path: Path, verify: bool = True, entries: Mapping[str, Entry] | None = None) -> Checkpoint:
    """Judge the checkpoint folder `path`. Never raises for what is in it; what is wrong is in the problems. `entries`: what
    `list_folder` has just found there.

    With `verify` every byte is looked at: digests, checksums, finite numbers. Without, only structure and sizes, for a first
    look; a checkpoint with a manifest is then `complete` at best, since nothing was proven.
    """
    with reading_once():
        return _inspect(path, verify, entries)


def _inspect(path: Path, verify: bool, entries: Mapping[str, Entry] | None) -> Checkpoint:
    try:
        itself = look(path)
        if itself.kind != "folder":
            raise not_a_file(itself) if itself.kind != "file" else Unsound(
                "not_a_folder", _("{name} is a file, not a folder.").format(name=path.name))  # fmt: skip
        entries = entries if entries is not None else list_folder(path)
    except OSError as error:
        return _unreadable(path, unreadable(path.name, error))
    except Unsound as wrong:
        return _unreadable(path, wrong)
    proof = check_manifest(path, entries, digests=verify) if MANIFEST_NAME in entries else None
    weights, shards = _weights(path, entries, verify)
    training = _training_state(path, entries, verify, proof, weights)
    manifest = proof.manifest if proof is not None else None
    told = (*weights.problems, *training.problems, *(proof.problems if proof is not None else ()))
    problems = tuple(dict.fromkeys(told))  # a file that cannot be read is found so by whoever judges it and by its digest
    whole = training.whole and _agree(manifest, training.state) and (proof is None or proof.holds)
    grade = _grade(weights, whole and not (shards and weights.adapter is not None), proof, verify)
    judged = _described(path, entries, manifest, training.state, weights.adapter, grade, problems)
    judged = replace(judged, continuable=judged.continuable and weights.continuable)
    if itself.others_write or any(entry.others_write for entry in entries.values()):
        return replace(judged, problems=(*judged.problems, _open_to_all(path)))
    return judged


def glimpse(path: Path, history: bool) -> Checkpoint | None:
    """What the folder `path` says of itself, unchecked: for a list that must be there at once. Its grade is `complete` at best and
    what is wrong with its files is not known. With `history` the logged losses too.

    None where it says nothing of itself; then it must be judged.
    """
    try:
        entries = list_folder(path)
        manifest = read_manifest(path) if MANIFEST_NAME in entries else None
        state = read_state(path / STATE_NAME) if history or manifest is None else None
    except (OSError, Unsound):
        return None
    return _described(
        path, entries, manifest, state, None, Grade.COMPLETE if _agree(manifest, state) else Grade.WEIGHTS_ONLY
    )


def recall(path: Path, entries: Mapping[str, Entry], history: bool) -> Checkpoint | None:
    """The checkpoint `path`, of which is known that nothing is wrong with it (verdicts.py). With `history` the logged losses too.

    None where it does not say of itself what it must.
    """
    try:
        manifest = read_manifest(path) if MANIFEST_NAME in entries else None
        state = read_state(path / STATE_NAME) if history or manifest is None else None
        shape = adapter.read_adapter_config(path / adapter.CONFIG_NAME)
    except (OSError, Unsound):
        return None
    return _described(path, entries, manifest, state, shape, Grade.PROVEN if manifest is not None else Grade.COMPLETE)


def _weights(path: Path, entries: Mapping[str, Entry], verify: bool) -> tuple[Weights, bool]:
    """The weights, and whether the training state is sharded."""
    spread = kinds.sharded(path, entries)
    others = kinds.several_adapters(path, entries)
    if adapter.CONFIG_NAME in entries or any(name in entries for name in adapter.WEIGHTS):
        found = adapter.check_adapter(path, entries, verify)
    elif any(name in entries for name in (*adapter.WHOLE, *adapter.INDEXES)):
        found = adapter.check_whole_model(path, entries, verify)
    elif spread is not None:
        found = Weights(spread[1], False, None, (), ())
    elif others:
        each = [adapter.check_adapter(path / name, list_folder(path / name), verify) for name in others]
        wrong = tuple(problem for one in each for problem in one.problems if not one.sound)
        found = Weights(all(one.sound for one in each), False, None, wrong, ())
    else:
        found = Weights(False, False, None, (_no_weights(entries),), ())
    added = ([spread[0]] if spread else []) + ([kinds.several(others)] if others else [])
    continuable, problems = found.continuable and not added, (*found.problems, *added)
    return replace(found, continuable=continuable, problems=problems), bool(spread)


def _no_weights(entries: Mapping[str, Entry]) -> Problem:
    message = _("It holds no weights.") if entries else _("The folder is empty.")
    return Problem(
        "adapter_missing", message, _("The save was cut short, or the files were not copied; take an earlier checkpoint.")
    )


def _training_state(
    path: Path, entries: Mapping[str, Entry], verify: bool, proof: Proof | None, weights: Weights
) -> _TrainingState:
    same = proof.same if proof is not None else frozenset()  # files whose digest is that of the manifest
    problems: list[Problem] = []
    state: TrainerState | None = None
    whole = True
    try:
        if STATE_NAME not in entries:
            raise _state_missing(STATE_NAME, _("how far the run had come is not known"))
        state = read_state(path / STATE_NAME)
        if proof is None and state.doubt is not None:  # with a manifest that one says where it stood
            problems.append(state.doubt)
            whole = False
    except Unsound as wrong:
        problems.append(wrong.problem)
        whole = False
    for name, why in (
        (OPTIMIZER, _("the optimizer would start anew, and with it the direction of the training")),
        (SCHEDULER, _("the learning rate would start anew")),
        *((name, "") for name in _rng_files(entries)),
        *(((SCALER, ""),) if SCALER in entries else ()),
    ):
        try:
            if name not in entries:
                raise _state_missing(name, why or _("order and dropout would differ"))
            found = check_torch_file(path / name, contents=verify, checksums=name not in same)
            stepped = bool(found.tensors) or (state is not None and state.step > 0)
            if name == OPTIMIZER and stepped and (odd := _not_adamw(path / name, found)) is not None:
                raise _other_optimizer(odd)
            if name == OPTIMIZER:
                _refuse_other_groups(found.groups, weights.names)
            if name == SCHEDULER and (kind := next((NOT_GONE_ON[key] for key in NOT_GONE_ON if key in found.keys), None)):
                raise _other_scheduler(kind)
            # With a manifest the digests say that they belong together.
            if name == OPTIMIZER and proof is None and weights.shapes:
                _refuse_moments_of_others(found, weights.shapes)
        except Unsound as wrong:
            problems.append(wrong.problem)
            whole = False
    return _TrainingState(state, whole, tuple(problems))


def _not_adamw(path: Path, found: Listing) -> str | None:
    """What shows that the optimizer in the file `path` is another one than AdamW; None where nothing does. Its kin keep the same
    moments: NAdam one tensor more, RAdam other settings, and Adam says that its weight decay goes into the gradient."""
    if not {*MOMENTS} <= found.tensors.keys() <= OF_ADAMW:
        return ", ".join(sorted(name[:40] for name in found.tensors)[:5]) or "-"
    if not SAID_BY_ADAMW & found.flags.keys():
        return _("its groups have no {name}").format(name="amsgrad")
    if False in found.flags.get("decoupled_weight_decay", ()) and saved_weight_decay(path) != 0:
        return _("its weight decay goes into the gradient")
    return None


def _other_optimizer(names: str) -> Unsound:
    return Unsound(
        "other_optimizer",
        _("{name} is of another optimizer than AdamW ({names}).").format(name=OPTIMIZER, names=names),
        _("Continue it with the program that made it, or start a new run from these weights with --init-from."),
    )


def _refuse_other_groups(groups: Sequence[int], names: Sequence[str]) -> None:
    """Raise Unsound where an optimizer has not the groups of parameters that Trainer makes, as one with a learning rate of its own for
    lora_B or for embeddings has: a second one for biases and the scales of norms alone. `names`: of the adapter's tensors. One group
    of all is taken up too."""
    second = groups[1] if len(groups) == 2 else 0
    known = not names or any(part in name.casefold() for name in names for part in ("bias", "norm"))
    if len(groups) <= 2 and (not second or known):
        return
    raise Unsound(
        "optimizer_groups",
        _("{name} keeps parameters in {count} groups with settings of their own, such as another learning rate; here all have "
          "the same.").format(name=OPTIMIZER, count=len(groups)),
        _("Continue it with the program that made it, or start a new run from these weights with --init-from."),
    )  # fmt: skip


def _other_scheduler(kind: str) -> Unsound:
    return Unsound(
        "other_scheduler",
        _("{name} is of {kind}, which none of the schedules here can go on from.").format(name=SCHEDULER, kind=kind),
        _("Continue it with the program that made it, or start a new run from these weights with --init-from."),
    )


def _refuse_moments_of_others(found: Listing, shapes: Iterable[tuple[int, ...]]) -> None:
    """Raise Unsound where moments have a shape that is left over when each of `shapes`, the adapter's, has been given its own: they
    are of other parameters. Which is whose is not said in the file; the receipt sees it. An adapter may hold more than was trained."""
    has = Counter(shapes)
    for name in (one for one in MOMENTS if one in found.tensors):
        odd = next(iter(Counter(one.shape for one in found.tensors[name]) - has), None)
        if odd is not None:
            raise Unsound(
                "optimizer_mismatch",
                _("{name} holds moments of shape {shape} that no tensor of the adapter has; it is of another run.").format(
                    name=OPTIMIZER, shape=list(odd)
                ),
                _(
                    "Restore the {name} that was saved with it, or start a new run from these weights with --init-from."
                ).format(name=OPTIMIZER),
            )


def _rng_files(entries: Mapping[str, Entry]) -> tuple[str, ...]:
    """The files of random states that must be there: one, or one for each process from 0 to the highest."""
    ranks = [int(match[1]) for name in entries if (match := RNG_OF_RANK.fullmatch(name)) and len(match[1]) < 6]
    if not ranks:
        return (RNG,)
    return tuple(f"rng_state_{rank}.pth" for rank in range(min(max(ranks) + 1, len(ranks) + 1))) + (
        (RNG,) if RNG in entries else ()
    )


def _state_missing(name: str, why: str) -> Unsound:
    code = {STATE_NAME: "state_missing", OPTIMIZER: "optimizer_missing", SCHEDULER: "scheduler_missing"}.get(
        name, "rng_missing"
    )
    return Unsound(
        code,
        _("{name} is missing: {why}.").format(name=name, why=why),
        _("Continue from an earlier checkpoint, or start a new run from these weights with --init-from."),
    )


def _grade(weights: Weights, whole: bool, proof: Proof | None, verify: bool) -> Grade:
    """The grade (C4). `whole`: all that exact continuation needs is there, sound, and of one piece."""
    if not weights.sound or (proof is not None and proof.failed & set(weights.files)):
        return Grade.BROKEN
    if not whole or any(problem.code == "adapter_config_imports" for problem in weights.problems):
        return Grade.WEIGHTS_ONLY
    return Grade.PROVEN if proof is not None and verify and not proof.failed else Grade.COMPLETE


def _agree(manifest: Manifest | None, state: TrainerState | None) -> bool:
    """Whether both, where there are both, name the same step."""
    return manifest is None or state is None or manifest.step == state.step


def _described(
    path: Path,
    entries: Mapping[str, Entry],
    manifest: Manifest | None,
    state: TrainerState | None,
    shape: AdapterShape | None,
    grade: Grade,
    problems: Iterable[Problem] = (),
) -> Checkpoint:
    """The checkpoint as it tells of itself, by its manifest or else its state, with `grade`, `problems` and what shows at once."""
    told = [*problems]
    told += _odd_entries(entries, {problem.message for problem in told})
    step = state.step if state is not None else manifest.step if manifest is not None else None
    told += _disagreements(path, manifest, state, step)
    history = state.history if state is not None else ()
    # A manifest says both, or that they are not known: the history, which a glimpse has not read, must not say more.
    loss, eval_loss = (manifest.loss, manifest.eval_loss) if manifest is not None else (None, None)
    if manifest is None and step is not None:
        loss, eval_loss = last_loss(history, step), last_eval_loss(history, step)
    return Checkpoint(
        name=path.name,
        path=path,
        grade=grade,
        run=manifest.run_id if manifest is not None else UNKNOWN_RUN,
        made_by="lora-tui" if MANIFEST_NAME in entries else kinds.made_by(path, entries, shape, state),
        step=step,
        epoch=manifest.epoch if manifest else state.epoch if state else None,
        loss=loss,
        eval_loss=eval_loss,
        max_steps=manifest.schedule.total_steps if manifest else state.max_steps if state else None,
        total_epochs=manifest.total_epochs if manifest else state.total_epochs if state else None,
        saved_at=manifest.saved_at if manifest else _saved_at(entries),
        bytes=sum(entry.size for entry in entries.values()) + _inside(path, entries),
        files=tuple((name, entry.size) for name, entry in sorted(entries.items()) if entry.kind == "file"),
        continuable=grade in (Grade.PROVEN, Grade.COMPLETE),
        problems=tuple(told),
        history=history,
        adapter=shape,
        manifest=manifest,
        batch_size=manifest.geometry.batch_size if manifest else state.batch_size if state else None,
    )


def _disagreements(path: Path, manifest: Manifest | None, state: TrainerState | None, step: int | None) -> list[Problem]:
    """Steps that name, manifest and state do not agree on."""
    found = []
    if not _agree(manifest, state):
        found.append(Problem("manifest_disagrees", _("{manifest} and {state} name different steps.").format(
            manifest=MANIFEST_NAME, state=STATE_NAME)))  # fmt: skip
    named = re.fullmatch(r"checkpoint-(0|[1-9][0-9]{0,17})", path.name, re.ASCII)
    if named and step is not None and int(named[1]) != step:
        found.append(Problem(
            "step_mismatch",
            _("The folder's name says step {name}, its state says {step}; the state counts.").format(name=named[1], step=step),
            _("Rename the folder to checkpoint-{step} if nothing of that name is there.").format(step=step)))  # fmt: skip
    return found


def _open_to_all(path: Path) -> Problem:
    return Problem(
        "world_writable",
        _("Every user of this machine may change this checkpoint. What is loaded is judged once more, in a private copy."),
        _("Take the right away: chmod -R o-w {path}").format(path=path),
    )


def _odd_entries(entries: Mapping[str, Entry], told: set[str]) -> list[Problem]:
    """Pipes, devices and links among the files, beyond those that were already told."""
    found = [not_a_file(entry).problem for entry in entries.values() if entry.kind in ("link", "special")]
    return [problem for problem in found if problem.message not in told]


def _inside(path: Path, entries: Mapping[str, Entry]) -> int:
    """Bytes of the files one folder down."""
    total = 0
    for entry in entries.values():
        if entry.kind == "folder":
            try:
                total += sum(inner.size for inner in list_folder(path / entry.name).values())
            except (OSError, Unsound):
                continue
    return total


def _saved_at(entries: Mapping[str, Entry]) -> float | None:
    last = entries.get(STATE_NAME) or max(entries.values(), key=lambda entry: entry.mtime, default=None)
    return last.mtime if last is not None else None


def _unreadable(path: Path, wrong: Unsound) -> Checkpoint:
    return Checkpoint(
        name=path.name, path=path, grade=Grade.BROKEN, run=UNKNOWN_RUN, made_by="unknown", step=None, epoch=None, loss=None,
        eval_loss=None, max_steps=None, total_epochs=None, saved_at=None, bytes=0, files=(), continuable=False,
        problems=(wrong.problem,), history=(), adapter=None, manifest=None,
    )  # fmt: skip
