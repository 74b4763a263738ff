"""The wizard on this terminal, and what of its threads is waited for once it is left."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tui.app import LoraTui


def opened(app: LoraTui) -> int | None:
    """Run `app` on this terminal until it is left; what it was left with."""
    with asyncio.Runner() as runner:
        runner.get_loop().set_default_executor(_Threads(app))
        return runner.run(app.run_async())


class _Threads(ThreadPoolExecutor):
    """The threads that answer the screens' questions. Who leaves waits for none of the answers: to count the rows of a large dataset
    takes minutes. A run that saves is waited for, and so is what a screen says (`WizardScreen.awaited`)."""

    def __init__(self, app: LoraTui) -> None:
        super().__init__(thread_name_prefix="wizard")
        self._app = app

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        to_its_end = self._app.awaited or self._app.shown.running
        super().shutdown(wait and to_its_end, cancel_futures=cancel_futures or not to_its_end)
