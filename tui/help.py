"""What a setting means, what is usual, and what goes wrong: the words behind F1.

RunConfig has the one line that --help shows; here is what a person asks next.
"""

from __future__ import annotations

from engine.config import RunConfig
from engine.i18n import _
from tui.fields import in_fields


def field_help(name: str) -> str:
    """The help of a setting."""
    short = _(str(RunConfig.model_fields[name].description))
    long = _long().get(name)
    sentence = _("{what}.").format(what=short)
    return in_fields(f"{sentence}\n\n{long}" if long else sentence)


def _long() -> dict[str, str]:
    return {
        "epochs": _(
            "How often the model sees every row, in total and not on top of what a continued run has done. 2 to 4 are usual for a "
            "few hundred rows, 1 for many thousands. Too many and it knows the rows by heart: the loss falls below 0.1 and "
            "answers become copies."
        ),
        "learning_rate": _(
            "How far each step goes at most. 2e-4 is usual for LoRA, 1e-4 for long runs, up to 1e-3 for tiny models. Too high: "
            "the loss jumps up or becomes not a number. Too low: it hardly falls."
        ),
        "batch_size": _(
            "Rows that are worked on at once. More needs more memory and makes calmer steps. With auto it is 8. When the "
            "memory runs out, lower this first and raise --grad-accum by the same factor: the training stays the same."
        ),
        "grad_accum": _("Batches whose gradients are added up before one step. Rows a step = batch size x this."),
        "lora_r": _(
            "The width of the adapter. 8 to 16 for style and format, 32 to 64 for new skills. It cannot be changed when a run "
            "is continued."
        ),
        "lora_alpha": _(
            "How strongly the adapter acts: alpha / rank is its factor. Twice the rank is usual. It cannot be changed "
            "when a run is continued."
        ),
        "lora_dropout": _(
            "Randomly leaves out parts of the adapter's input while training. 0 to 0.1; helps small datasets a little."
        ),
        "max_length": _(
            "Rows longer than this are cut, the end first; a row never loses everything that is to be learned. Memory grows with "
            "it. The dataset step shows how long the rows are."
        ),
        "save_steps": _(
            "How many steps may be lost at most when the power goes. auto saves four times an epoch and at least every 500 steps."
        ),
        "keep": _(
            "Older checkpoints are removed when newer ones are safe on the disk. The furthest, and the best by eval loss, "
            "always stay."
        ),
        "eval_fraction": _(
            "Share of the rows that is held back to measure what the model has really learned. 0.05 to 0.1 where there "
            "are some hundred rows or more; 0 trains on everything."
        ),
        "scheduler": _(
            "How the learning rate goes down after the warmup: cosine ends softly at zero, linear straight, constant not at all."
        ),
        "warmup": _("The rate climbs from zero over this share of the steps (below 1) or this many steps (from 1 on)."),
        "train_on": _(
            "auto learns the assistant's turns of conversations, the completion of pairs, and all of plain text. completion "
            "learns only the last answer; all learns the user's words too, which is rarely what one wants."
        ),
        "chat_template": _(
            "How a conversation becomes text for the model. auto takes the template that comes with it. A base model has none: plain "
            "writes headlines (### User, ### Assistant) and the model's own end token after each answer; chatml is for a model that "
            "has the tokens <|im_start|> and <|im_end|>. Or the path of a file with a Jinja template. It is saved with the adapter. "
            "Prompts and completions that are plain text are joined without a template."
        ),
        "target_modules": _("Which layers get an adapter. all-linear learns best; fewer layers are smaller and faster."),
        "precision": _(
            "The number format of the frozen base model. The adapter itself is always trained in float32. bfloat16 halves "
            "the memory, and the time where the device has units for it; auto takes it on a CPU only for a model whose files "
            "are bf16."
        ),
        "load_in_4bit": _(
            "Loads the base model in 4 bits (QLoRA): a quarter of the memory, somewhat slower. Needs an NVIDIA GPU."
        ),
        "activation_checkpointing": _(
            "Computes parts of the forward pass twice instead of keeping them. Only when the memory is short."
        ),
        "seed": _("The same seed, data and settings give the same run. A continued run keeps its own."),
        "max_steps": _("Ends the run after this many steps, whatever the epochs say."),
        "max_grad_norm": _("Longer gradients are shortened to this. 1 is usual; 0 switches it off."),
        "weight_decay": _("Pulls the adapter's weights towards zero. 0 to 0.1; LoRA seldom needs it."),
        "logging_steps": _("How often the loss is written down. 1 sees every jump at once."),
        "on_save_error": _(
            "What to do when the disk is full or gone: stop, with what was saved before intact, or warn and go on."
        ),
    }
