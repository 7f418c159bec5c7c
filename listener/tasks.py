"""One tree of tasks: whatever in it dies is told by name and takes the tree with it, so that nothing is half alive."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

log = structlog.get_logger()
T = TypeVar("T")


class TaskDiedError(Exception):
    """A task ended that must not end; its name is the text."""


class TaskTree(asyncio.TaskGroup):
    """A `TaskGroup` that `stopping` ends, in which only what was asked to may be cancelled or, if kept, return.

    A plain group takes a child that is cancelled, by whatever library, for one that has done its work.
    """

    def __init__(self, stopping: asyncio.Event) -> None:
        super().__init__()
        self._stopping = stopping
        self._dying = False

    async def __aexit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        self._dying |= kind is not None
        await super().__aexit__(kind, *error)

    def start(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Something that ends when it has done its work."""
        task = self.create_task(work, name=name)
        task.add_done_callback(self._look_at)
        return task

    def keep(self, work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
        """Something that goes on until `stopping`."""
        task = self.start(self._kept(work, name), name)
        # Python warns of work that was never begun, as where the end comes right after the start.
        task.add_done_callback(lambda _: work.close())
        return task

    async def _kept(self, work: Coroutine[Any, Any, None], name: str) -> None:
        await work
        if not self._stopping.is_set():
            raise TaskDiedError(name)

    def _look_at(self, task: asyncio.Task[Any]) -> None:
        # When one dies the group cancels the others: theirs is no death of their own.
        if self._dying or (task.cancelled() and self._stopping.is_set()):
            return
        error = TaskDiedError(task.get_name()) if task.cancelled() else task.exception()
        if error is None:
            return
        self._dying = True
        log.error("task_died", task=task.get_name(), error=type(error).__name__, effect="the process ends")
        if task.cancelled():
            self.create_task(_raise(error))


async def _raise(error: BaseException) -> None:
    raise error
