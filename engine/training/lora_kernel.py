"""A linear layer and its LoRA in one pass: y = x W' + s (x A') B', with the sum and the scale inside the matrix products.

PEFT adds the adapter to the layer's output in operations of their own, each a pass over all of it forth and back: multiply by the
scale, add, and add up two gradients of x. Here they are the accumulate of `addmm`, and the scale is put on B, the smallest of them.
The numbers agree with PEFT's to the last bits of float32, not in them; a run keeps to one kernel, so continuing stays bit for bit.

Over a base in bfloat16 PEFT casts x to float32 for the adapter, forth and back. Here the adapter's products are computed in bfloat16
from weights that stay float32, with float32 sums inside them, as torch's autocast does; gradients are handed on in float32.

A base in 4 bit is multiplied by bitsandbytes, and written out in bfloat16 for a moment on the way back, as bitsandbytes does itself.

Only where it is the same thing: base in float32, bfloat16 or 4 bit, adapter in float32, no dropout, plain LoRA. Every other layer
stays PEFT's.

This module imports torch at its top: import it only where training starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from engine.config import RunConfig
from engine.hardware import Hardware
from engine.i18n import _


def choose_kernel(config: RunConfig, hardware: Hardware, saved: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether to fuse, and the choice with its reason. `saved`: adapter_config.json of what the run goes on from, or nothing."""
    if config.lora_kernel == "peft":
        return False, _("peft · as set")
    why = None
    if hardware.precision not in ("float32", "bfloat16"):
        why = _("fused is for float32 and bfloat16")
    elif hardware.device == "mps" and config.lora_kernel == "auto":
        why = _("fused was not measured on an Apple GPU")
    elif config.lora_dropout:
        why = _("dropout lies between layer and adapter")
    elif config.parallel == "deepspeed" and config.world > 1:
        why = _("DeepSpeed brings a layer together when that layer itself is called")
    elif saved.get("use_dora"):
        why = _("the adapter is a DoRA")
    if why is None:
        return True, _("fused · as set") if config.lora_kernel == "fused" else _("fused · layer and adapter in one pass")
    return False, f"peft · {why}"


def fuse(model: Any) -> int:
    """Have each layer of a PeftModel that can do so compute in one pass. Returns how many."""
    layers = [module for module in model.modules() if _kind(module) in _BASES and _is_plain(module)]
    for layer in layers:
        layer.forward = _Fused(layer)
    return len(layers)


_BASES = {
    "peft.tuners.lora.layer.Linear": "torch.nn.modules.linear.Linear",
    "peft.tuners.lora.bnb.Linear4bit": "bitsandbytes.nn.modules.Linear4bit",
}
"""The kind of PEFT's layer -> that of the layer it is around; by name, since bitsandbytes need not be there."""


def _kind(module: Any) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _is_plain(layer: Any) -> bool:
    return (
        _kind(layer.base_layer) == _BASES[_kind(layer)]
        and list(layer.lora_A) == ["default"]
        and layer.active_adapters == ["default"]
        and not layer.lora_variant
        and not layer.lora_bias["default"]
        and isinstance(layer.lora_dropout["default"], torch.nn.Identity)
        and _dtype(layer.base_layer) in (torch.float32, torch.bfloat16)
        and layer.lora_A["default"].weight.dtype == torch.float32
    )


def _dtype(base: Any) -> torch.dtype | None:
    """In which `base` multiplies."""
    found: torch.dtype | None = base.compute_dtype if _in_4_bit(base) else base.weight.dtype
    return found


def _in_4_bit(base: Any) -> bool:
    return hasattr(base.weight, "quant_state")


def _weight(base: Any) -> torch.Tensor:
    """(out, in) of `base`; one in 4 bit is written out."""
    if not _in_4_bit(base):
        whole: torch.Tensor = base.weight
        return whole
    from bitsandbytes.functional import dequantize_4bit

    written: torch.Tensor = dequantize_4bit(base.weight.data, base.weight.quant_state).to(base.compute_dtype)
    return written


class _Fused:
    """The forward of one layer."""

    def __init__(self, layer: Any) -> None:
        self.layer, self.stock, self.dtype = layer, layer.forward, _dtype(layer.base_layer)

    def __call__(self, x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        layer = self.layer
        if layer.disable_adapters or layer.merged or args or options or x.dtype != self.dtype:
            other: torch.Tensor = self.stock(x, *args, **options)
            return other
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        fused: torch.Tensor = _LinearWithLora.apply(x, a, b, layer.base_layer, layer.scaling["default"])  # type: ignore[no-untyped-call]
        return fused


class _LinearWithLora(torch.autograd.Function):
    """x (..., in), a (r, in), b (out, r), a frozen linear layer, the scale -> (..., out).

    The base weight is not saved but read again: shared out among processes, it is whole only while it is used (FSDP2).
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, base: Any, scale: float) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        a, b = a.to(x.dtype), torch.mul(b, scale, out=b.new_empty(b.shape, dtype=x.dtype))
        down = rows @ a.t()
        # Not a view: some models change a layer's output in place, which autograd forbids of a view that a Function returns.
        out = x.new_empty(*x.shape[:-1], b.shape[0])
        flat = out.view(-1, b.shape[0])
        if _in_4_bit(base):
            torch.addmm(base(rows), down, b.t(), out=flat)
        else:
            if base.bias is None:
                torch.mm(rows, base.weight.t(), out=flat)
            else:
                torch.addmm(base.bias, rows, base.weight.t(), out=flat)
            flat.addmm_(down, b.t())
        ctx.save_for_backward(rows, down, a, b)
        ctx.base, ctx.scale = base, scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        rows, down, a, b = ctx.saved_tensors
        of_out = gradient.reshape(-1, gradient.shape[-1])
        of_down = of_out @ b
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (of_out @ _weight(ctx.base)).addmm_(of_down, a).view(*gradient.shape[:-1], a.shape[1])
        return of_x, _in_float32(of_down.t(), rows), _in_float32(of_out.t(), down).mul_(ctx.scale), None, None


def _in_float32(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """left right, handed on in float32: what a GPU sums up so is not rounded to bfloat16 first."""
    if left.is_cuda and left.dtype != torch.float32:
        product: torch.Tensor = torch.mm(left, right, out_dtype=torch.float32)
        return product
    return (left @ right).float()
