"""On PYTHONPATH of a run's processes: the one of TEST_RANK says "out of memory" where it gets more than TEST_ROWS rows at a time."""

import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder


class Limited(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "engine.training.sft":
            return None
        spec = PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            compute = module.ExactTrainer.training_step

            def training_step(self, model, inputs, *more):
                if len(inputs["input_ids"]) > int(os.environ["TEST_ROWS"]) and self.state.global_step >= 3:
                    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
                return compute(self, model, inputs, *more)

            module.ExactTrainer.training_step = training_step

        spec.loader.exec_module = exec_module
        return spec


if os.environ.get("RANK") == os.environ.get("TEST_RANK"):
    sys.meta_path.insert(0, Limited())
