"""manifest.json: what a checkpoint made here says of itself, so that a later run can prove it came back.

Written last into a staged checkpoint (C3): its presence says that everything it lists was complete. It names every other
file with size and SHA-256, where in the data the run stood, and the identity of everything the weights depend on. It comes
from disk, so it is untrusted: a pydantic model, strict, frozen, nothing extra.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

MANIFEST_NAME = "manifest.json"
MANIFEST_SCHEMA = 1

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=2**53)]
ScoredTokens = Annotated[str, Field(pattern=r"^\*?[0-9]{1,9}( \*?[0-9]{1,9}){1,255}$")]
"""Token ids on one line, with * before those that are trained on."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)


class FileRecord(_Part):
    """One file beside the manifest."""

    size: Count
    """Bytes."""
    sha256: Sha256


class Cursor(_Part):
    """Where in the data the run stands, in rows and not in batches, so that it does not depend on the batch size."""

    epoch: Count
    """Whole epochs done."""
    rows_consumed: Count
    """Rows of the running epoch that were trained on."""
    rows: Annotated[int, Field(ge=1, lt=2**53)]
    """Rows in an epoch."""
    seed: Count
    next_batch: Sha256
    """SHA-256 over the row ids of the next optimizer step, as little-endian int64; of nothing where no row is left."""
    given_up: Annotated[float, Field(ge=0, lt=2**53)] = 0.0
    """Epochs that were trained before and do not count: an epoch begun anew over changed rows is further along than what it was begun
    from, though its number says less."""

    @model_validator(mode="after")
    def _within_its_epoch(self) -> Cursor:
        if self.rows_consumed > self.rows:
            raise ValueError(f"{self.rows_consumed} rows of an epoch of {self.rows}")
        return self


class Probe(_Part):
    """The loss on a few fixed rows, dropout off (C5)."""

    rows: tuple[Sha256, ...]
    """Content digests of the rows, in the order they were scored."""
    loss: float
    base_loss: float
    """The same rows with the adapter switched off."""
    precision: str
    tokens: Annotated[int, Field(ge=2)] | None = None
    """Only so many tokens of each row were scored, up to its last trained one; None: rows as they are (probe.MAX_TOKENS)."""
    scored: tuple[ScoredTokens, ...] | None = None
    """What was scored of each row: a chat template that writes the date makes other tokens of the same row on another day. None: not
    recorded, by an older version."""

    @model_validator(mode="after")
    def _tokens_for_each_row(self) -> Probe:
        if self.scored is not None and len(self.scored) != len(self.rows):
            raise ValueError(f"tokens of {len(self.scored)} rows, and {len(self.rows)} were scored")
        return self


class DatasetIdentity(_Part):
    """Enough to tell unchanged, appended, reordered and edited rows apart without storing a digest for each row."""

    rows: Count
    ordered: Sha256
    """Digest over the row digests in order."""
    unordered: Sha256
    """Sum of the row digests modulo 2**256: the same for any order."""


class Identities(_Part):
    """What the weights depend on."""

    base_model: str
    """Folder or hub id as given; shown, not compared."""
    base_config: Sha256
    base_weights: Sha256
    """Sampled: sizes, headers and evenly spaced blocks of every weight file."""
    tokenizer: Sha256
    chat_template: Sha256
    tokenizer_files: Sha256 | None = None
    """Of the files both were made from: where it is the same they are, and neither need be loaded to tell. None: not recorded."""
    dataset: DatasetIdentity
    eval_dataset: DatasetIdentity | None
    data_settings: Sha256
    """format, train_on, max_length, eval_fraction: what turns rows into tokens."""


class Geometry(_Part):
    """How rows are cut into optimizer steps."""

    batch_size: Annotated[int, Field(ge=1, le=1_000_000)]
    grad_accum: Annotated[int, Field(ge=1, lt=2**31)]
    world_size: Annotated[int, Field(ge=1, lt=2**31)]
    """Processes; each takes `batch_size` rows at a time."""

    @property
    def rows(self) -> int:
        """Rows of an optimizer step."""
        return self.batch_size * self.grad_accum * self.world_size


class Schedule(_Part):
    """The learning rate as a function of the step."""

    scheduler: str
    learning_rate: float
    """Peak."""
    warmup_steps: Count
    total_steps: Count
    next_learning_rate: float
    """Rate of the step after this checkpoint."""


class Adapter(_Part):
    """The trainable tensors."""

    tensors: Count
    sha256: Sha256
    """Over names, dtypes, shapes and bytes of all adapter tensors, sorted by name."""
    config: Sha256


class LogState(_Part):
    """A window of steps that was not logged yet, so that a continued run logs what the uninterrupted one would have."""

    loss_sum: float | None
    """None: no longer a number (float16 skips a step that overflows and goes on)."""
    last_logged_step: Count
    metrics: dict[str, list[float | None]]
    tokens: Count


class Process(_Part):
    """What another process than the first has for its own."""

    rng: Sha256
    loss_sum: float | None
    """As LogState's, which is the first's."""


class Manifest(_Part):
    """The whole of manifest.json."""

    digest: Sha256 | None = None
    """Over the bytes of the file behind it, where it stands first: what nothing else can be held against is not taken on trust from a
    disk that errs. None: written by hand, or by an older version."""
    schema_version: Annotated[int, Field(ge=1, le=MANIFEST_SCHEMA)]
    run_id: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[0-9A-Za-z._-]+$")]
    parent: str | None
    """The checkpoint this stretch of training continued from: `<run id>/<name>`. None for a fresh run."""
    saved_at: float
    """Unix seconds."""
    step: Count
    epoch: Annotated[float, Field(ge=0, lt=2**53)]
    total_epochs: Annotated[float, Field(ge=0, lt=2**53)]
    loss: float | None
    eval_loss: float | None
    cursor: Cursor
    probe: Probe | None
    identities: Identities
    geometry: Geometry
    schedule: Schedule
    adapter: Adapter
    logs: LogState
    optimizer: Sha256
    """Over the optimizer's moments, in parameter order."""
    steps_taken: Count | None = None
    """Optimizer steps that were taken, where float16 skipped some of `step` (the loss scale did not fit); None: all of them."""
    rng: Sha256
    monitor: dict[str, float | int | str | bool | list[float] | None]
    """LossMonitor's state."""
    precision: str
    device: str
    versions: dict[str, str]
    others: tuple[Process, ...] = ()
    """Processes 1 to world_size - 1, in order."""
    files: dict[str, FileRecord]
    """Every file beside manifest.json, by its name; no folders."""

    @property
    def steps_done(self) -> int:
        """Steps that the optimizer and its schedule have made."""
        return self.step if self.steps_taken is None else self.steps_taken

    @model_validator(mode="after")
    def _one_for_each_process(self) -> Manifest:
        if len(self.others) != self.geometry.world_size - 1:
            raise ValueError(f"tells of {len(self.others)} other processes, and there were {self.geometry.world_size - 1}")
        return self


_SEALED = re.compile(rb'\{\n "digest": "([0-9a-f]{64})",')


def dump_manifest(manifest: Manifest) -> bytes:
    """`manifest` as UTF-8 JSON, readable by a person, with its digest."""
    rest = json.dumps(manifest.model_dump(mode="json", exclude={"digest"}), indent=1, allow_nan=False).encode()[1:]
    return b'{\n "digest": "' + hashlib.sha256(rest).hexdigest().encode() + b'",' + rest


def parse_manifest(data: bytes) -> Manifest:
    """The manifest that the file's bytes `data` hold. Raises ValueError where they are none, or no longer what was written."""
    manifest = Manifest.model_validate_json(data)
    if manifest.digest is not None:
        sealed = _SEALED.match(data)
        if sealed is None or hashlib.sha256(data[sealed.end() :]).hexdigest() != manifest.digest:
            raise ValueError("its own digest differs: it was damaged or changed since it was saved")
    return manifest
