"""A pickle, listed and never run: which names it would call, and the tensors it would build.

Unpickling runs what the file says, so nothing here unpickles. The opcodes are walked (pickletools) by a machine whose values are
labels: a global is its name, a call of an allowed name is a label for its result, a call of any other name ends the walk. The
opcodes are those `torch.load(weights_only=True)` knows, the names those that stock optimizer, scheduler, scaler and RNG files
hold; nothing on the list reads files, imports or runs code. As a side effect the walk learns which storages and tensors the file
describes, so that their sizes can be held against what is really there.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from engine.checkpoints.files import Unsound, around, places
from engine.i18n import _

MAX_OPCODES = 4_000_000
"""An optimizer's file takes about thirty for each tensor, so this is enough for 100,000 of them."""

ITEM_BYTES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1, "UntypedStorage": 1, "ComplexFloatStorage": 8,
}  # fmt: skip
"""Bytes of an element of each storage class of torch."""
FLOATS = {"DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16"}
"""Their names in safetensors' words, for those that can hold NaN."""

DTYPES = "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool"
CALLABLES = frozenset(
    {
        "collections.OrderedDict", "torch.Size", "torch.device", "_codecs.encode", "torch.serialization._get_layout",
        "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_parameter", "torch.nn.parameter.Parameter",
        "numpy.dtype", "numpy.ndarray",
        "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
    }
)  # fmt: skip
"""Names that may be called: each only builds a value."""
PLAIN = frozenset(
    {f"torch.{name}" for name in ITEM_BYTES if name != "UntypedStorage"}
    | {"torch.storage.UntypedStorage"}
    | {f"torch.{name}" for name in DTYPES.split()}
)
"""Names that may be mentioned, as the type of something, but not called."""
TENSORS = {"torch._utils._rebuild_tensor": 4, "torch._utils._rebuild_tensor_v2": 6, "torch._utils._rebuild_tensor_v3": 7}
"""Callables that build a tensor from (storage, offset, shape, stride, ...), with their fewest arguments."""


@dataclass(frozen=True)
class Storage:
    """The bytes one or several tensors share: an entry `data/<key>` of the archive."""

    kind: str
    """Class name, as in ITEM_BYTES."""
    key: str
    numel: int

    @property
    def bytes(self) -> int:
        """What the entry must have."""
        return self.numel * ITEM_BYTES[self.kind]


@dataclass(frozen=True)
class PickledTensor:
    """A tensor the pickle would build."""

    storage: Storage
    shape: tuple[int, ...]


@dataclass
class Listing:
    """What a walk found."""

    storages: dict[str, Storage] = field(default_factory=dict)
    tensors: dict[str, list[PickledTensor]] = field(default_factory=dict)
    """Those that stand in a dict under a text key; a key stands once in each of several dicts, as exp_avg in an optimizer's."""
    flags: dict[str, set[bool]] = field(default_factory=dict)
    """What is true or false under a text key of a dict, as amsgrad in the groups of an optimizer's."""
    keys: set[str] = field(default_factory=set)
    """All text keys of dicts."""
    groups: list[int] = field(default_factory=list)
    """How many parameters each group of an optimizer has."""


@dataclass(frozen=True)
class _Global:
    name: str


class _Value:
    """Anything whose content does not matter here."""


class _List(_Value):
    """A list, of which its length matters."""

    length = 0


_VALUE, _MARK = _Value(), _Value()
_TRUE, _FALSE = _Value(), _Value()
"""Not Python's, which would pass for numbers."""

_PUSH = frozenset(["NONE", "EMPTY_DICT", "EMPTY_SET", "BINFLOAT"])
_PUSH_ARGUMENT = frozenset(["BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINSTRING"])
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class _Walked:
    """A pickle that was walked to its end and found sound. Another that differs only in the values of floats makes the same steps
    on the same labels, so its listing is this one: a run's optimizer files differ in nothing but their learning rate."""

    rest_of: Callable[[bytes], tuple[bytes, ...]]
    """Takes all bytes out of it but the eight of each float."""
    rest: bytes
    listing: Listing


_walked: dict[int, _Walked] = {}
"""By length, the last one of each."""
MAX_WALKED = 64
MAX_WALKED_BYTES = 1 << 20


def list_pickle(data: bytes, name: str) -> Listing:
    """Walk the pickle `data` of the file `name`. Raises Unsound where it is torn or holds what such a file never holds."""
    known = _walked.get(len(data))
    if known is not None and b"".join(known.rest_of(data)) == known.rest:
        return known.listing
    machine = _Machine(name)
    floats: list[tuple[int, int]] = []
    try:
        for number, (opcode, argument, position) in enumerate(pickletools.genops(data)):
            if number >= MAX_OPCODES:
                raise _odd(name, _("it has more than {limit} steps").format(limit=MAX_OPCODES))
            machine.step(opcode.name, argument)
            if opcode.name == "BINFLOAT":
                assert position is not None
                floats.append((position + 1, position + 9))
    except (ValueError, IndexError, KeyError, TypeError, struct.error, EOFError, OverflowError) as error:
        raise Unsound(
            "pickle_invalid",
            _("{name} is damaged: its contents cannot be listed ({error}).").format(name=name, error=str(error)[:120]),
            _("It was torn while being written or copied; copy it again or take an earlier checkpoint."),
        ) from None
    if len(data) <= MAX_WALKED_BYTES:
        if len(_walked) >= MAX_WALKED:
            _walked.clear()
        rest_of = places(around(floats, len(data)))
        _walked[len(data)] = _Walked(rest_of, b"".join(rest_of(data)), machine.listing)
    return machine.listing


class _Machine:
    """The stack of a pickle with labels for values."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.listing = Listing()

    def step(self, opcode: str, argument: Any) -> None:
        """Follow one opcode."""
        stack = self.stack
        if opcode in _PUSH:
            stack.append(_VALUE)
        elif opcode in _PUSH_ARGUMENT:
            stack.append(argument)
        elif opcode in ("NEWTRUE", "NEWFALSE"):
            stack.append(_TRUE if opcode == "NEWTRUE" else _FALSE)
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif opcode == "MARK":
            stack.append(_MARK)
        elif opcode == "EMPTY_LIST":
            stack.append(_List())
        elif opcode == "EMPTY_TUPLE":
            stack.append(())
        elif opcode == "TUPLE":
            stack.append(tuple(self._to_mark()))
        elif opcode in _TUPLES:
            items = tuple(self._pop() for _number in range(_TUPLES[opcode]))
            stack.append(items[::-1])
        elif opcode in ("APPEND", "SETITEM"):
            items = (self._pop(),) if opcode == "APPEND" else (self._pop(), self._pop())[::-1]
            self._collect(opcode, list(items))
        elif opcode in ("APPENDS", "SETITEMS"):
            self._collect(opcode, self._to_mark())
        elif opcode == "GLOBAL":
            stack.append(self._global(argument))
        elif opcode in ("REDUCE", "NEWOBJ"):
            arguments, called = self._pop(), self._pop()
            stack.append(self._call(called, arguments))
        elif opcode == "BUILD":
            self._pop()
            if isinstance(stack[-1], _Global):
                raise _odd(self.name, _("it changes {name}").format(name=stack[-1].name))
        elif opcode == "BINPERSID":
            stack.append(self._storage(self._pop()))
        elif opcode not in ("PROTO", "STOP"):
            raise _odd(self.name, _("it uses the step {opcode}").format(opcode=opcode))

    def _pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value belongs")
        return value

    def _to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            items.append(value)
        return items[::-1]

    def _collect(self, opcode: str, items: list[Any]) -> None:
        if isinstance(self.stack[-1], _Global):
            raise _odd(self.name, _("it changes {name}").format(name=self.stack[-1].name))
        if opcode in ("SETITEM", "SETITEMS"):
            for key, value in zip(items[::2], items[1::2], strict=True):
                if isinstance(key, str):
                    self._put(key, value)
        elif isinstance(self.stack[-1], _List):
            self.stack[-1].length += len(items)

    def _put(self, key: str, value: Any) -> None:
        self.listing.keys.add(key)
        if isinstance(value, PickledTensor):
            self.listing.tensors.setdefault(key, []).append(value)
        elif value is _TRUE or value is _FALSE:
            self.listing.flags.setdefault(key, set()).add(value is _TRUE)
        elif key == "params" and isinstance(value, _List):
            self.listing.groups.append(value.length)

    def _global(self, argument: str) -> _Global:
        name = argument.replace(" ", ".", 1)
        if name not in CALLABLES and name not in PLAIN:
            raise Unsound(
                "pickle_unsafe",
                _("{file} would call {name} when it is loaded, which a checkpoint of plain numbers never does. "
                  "It was not loaded.").format(file=self.name, name=name[:120]),
                _("Do not load this file with anything; the weights may still serve for a new run."),
            )  # fmt: skip
        return _Global(name)

    def _call(self, called: Any, arguments: Any) -> Any:
        if not isinstance(called, _Global) or called.name not in CALLABLES or not isinstance(arguments, tuple):
            raise _odd(self.name, _("it calls something that is no function"))
        if called.name in TENSORS:
            return self._tensor(called.name, arguments)
        if called.name == "torch._utils._rebuild_parameter":
            return arguments[0]
        return _VALUE

    def _tensor(self, called: str, arguments: tuple[Any, ...]) -> PickledTensor:
        if len(arguments) < TENSORS[called]:
            raise ValueError("a tensor without all it is made of")
        storage, offset, shape, stride = arguments[:4]
        if (
            not isinstance(storage, Storage)
            or not isinstance(shape, tuple)
            or not isinstance(stride, tuple)
            or not all(0 <= item < 2**63 for item in (offset, *shape, *stride))  # TypeError where one is no number
        ):
            raise ValueError("a tensor of impossible shape")
        last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if 0 not in shape and last >= storage.numel:
            raise Unsound(
                "storage_mismatch",
                _("{name} describes a tensor that is larger than its data.").format(name=self.name),
                _("Take an earlier checkpoint."),
            )
        return PickledTensor(storage, shape)

    def _storage(self, described: Any) -> Storage:
        match described:
            case ("storage", _Global(name=kind), str(key), str(), int(numel)) if numel >= 0:
                storage = Storage(kind.rpartition(".")[2], key, numel)
            case _other:
                raise ValueError("a storage that is not described as torch does")
        if storage.kind not in ITEM_BYTES or self.listing.storages.setdefault(key, storage) != storage:
            raise ValueError("a storage described in two ways")
        return storage


def _odd(name: str, why: str) -> Unsound:
    return Unsound(
        "pickle_unsafe",
        _("{name} is not a file of plain numbers: {why}. It was not loaded.").format(name=name, why=why),
        _("Do not load this file with anything; the weights may still serve for a new run."),
    )
