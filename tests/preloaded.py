"""What the server of the tests' processes imports once, before it forks any (`processes` in conftest.py): what a run needs, and what a
child needs to be told what to do. A child that imported the latter itself took half a second for a word that is refused at once."""

import gc

import datasets
import peft
import torch
import transformers
import trl.trainer.sft_trainer

import engine.training.sft
import tests.conftest
import tui.cli
import tui.headless

__all__ = ["datasets", "engine", "peft", "tests", "torch", "transformers", "trl", "tui"]

gc.freeze()  # else each child copies all of this as soon as it collects
