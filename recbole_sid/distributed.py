"""One run in several processes: ``torchrun`` starts them, each knows itself as a :class:`World`.

    torchrun --nproc-per-node=2 run_recbole_sid.py --model=TIGER --dataset=…

Every process runs the same command on the same files. The first one, rank 0, alone decides, writes
and prints; what it decided it *tells* the others through torchrun's store, where they may wait for
hours. Tensors go through collectives (gloo between processors, NCCL between GPUs), which all
processes enter together: a collective that waits longer than ``TIMEOUT`` has lost a process.

An error in one process ends all. The first process prints it, whosever it is; the others leave
without a word. A process that was killed tells nobody: the others find its connection closed.

Alone, which is the usual case, nothing of this exists: every method hands back what it was given.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import timedelta
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from recbole_sid.errors import InputError

TIMEOUT = timedelta(minutes=10)
# Seconds that a process which leaves gives the others to notice: then torchrun ends them.
PATIENCE = 10.0
# What a process finds in its environment.
_RANK, _SIZE, _LOCAL_RANK, _LOCAL_SIZE = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"
_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
_FAILURE, _HEARD, _LEFT = "failure", "heard", "left"


class Stopped(InputError):
    """Another process of the run has failed, and says why."""


class World:
    """The processes of a run; this is number ``rank`` of ``size``, and on its machine number
    ``local_rank`` of ``local_size``. ``World()`` is a process alone."""

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        local_rank: int = 0,
        local_size: int = 1,
        store: dist.Store | None = None,
    ):
        self.rank, self.size = rank, size
        self.local_rank, self.local_size = local_rank, local_size
        self._given = store
        self._calls = 0
        self._lost = False

    @property
    def leads(self) -> bool:
        """Whether this is the first process: the one that writes and prints."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.size == 1

    # -- waiting for each other -------------------------------------------------------------------

    def told(self, value: Any = None) -> Any:
        """The first process's ``value`` (plain data), in all; the others wait as long as it takes.

        Raises:
            Stopped: a process failed meanwhile.
        """
        if self.alone:
            return value
        key = self._next("told")
        if self.leads:
            self._store.set(key, json.dumps(value))
            return value
        self._wait(lambda: self._store.check([key]))
        return json.loads(self._store.get(key))

    def first(self, work: Callable[[], Any]) -> Any:
        """What ``work`` (which gives plain data) comes to in the first process; the others only
        wait for it."""
        return self.told(work() if self.leads else None)

    def meet(self) -> None:
        """Go on when all processes are here.

        Raises:
            Stopped: a process failed meanwhile.
        """
        if self.alone:
            return
        key = self._next("meet")
        self._store.add(key, 1)
        self._wait(lambda: self._store.add(key, 0) == self.size)

    # -- shares of work ---------------------------------------------------------------------------

    def block(self, n: int) -> range:
        """This process's share of ``n`` things, one after the other; the shares follow each other
        in the order of ranks. The first process has one if there is any."""
        size = -(-n // self.size)
        return range(min(n, self.rank * size), min(n, (self.rank + 1) * size))

    def strided(self, rows: Tensor) -> Tensor:
        """This process's rows: every ``size``-th one. Sorted rows are shared out evenly so."""
        return rows if self.alone else rows[self.rank :: self.size]

    # -- tensors ----------------------------------------------------------------------------------

    def collected(self, rows: Tensor | None) -> Tensor | None:
        """The rows of all processes, in the order of ranks, on the first one; None on the others.

        Args:
            rows: (n, ...), on the CPU. Only n may differ between the processes. One that has no
                rows may give None, but not the first one, unless none has any.
        """
        if self.alone:
            return rows
        self.meet()  # each may have worked for long
        kind = None if rows is None else [str(rows.dtype).removeprefix("torch."), *rows.shape[1:]]
        kind = self.told(kind)
        if kind is None:
            return None
        sent = torch.zeros(0, dtype=torch.uint8)
        if rows is not None:
            sent = rows.contiguous().flatten().view(torch.uint8)  # every type goes as bytes
        counts = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with self._connected():
            dist.all_gather(counts, torch.tensor([len(sent)]))
        longest = max(int(count) for count in counts)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(sent)] = sent
        parts = [torch.empty_like(padded) for _ in counts] if self.leads else None
        with self._connected():
            dist.gather(padded, parts)
        if parts is None:
            return None
        whole = torch.cat([part[: int(n)] for part, n in zip(parts, counts, strict=True)])
        return whole.view(getattr(torch, kind[0])).view(-1, *kind[1:])

    def arrays(self, given: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """The first process's arrays by their names, in all."""
        given = {} if given is None else given
        if self.alone:
            return dict(given)
        kinds = {name: (array.dtype.str, array.shape) for name, array in given.items()}
        found = {}
        for name, (dtype, shape) in self.told(kinds).items():
            array = given[name] if self.leads else np.empty(shape, dtype)
            found[name] = np.array(array, order="C")
            with self._connected():  # every type goes as bytes
                dist.broadcast(torch.from_numpy(found[name].reshape(-1).view(np.uint8)), 0)
        return found

    def sum_gradients(self, parameters: Iterable[nn.Parameter], value: Tensor) -> Tensor:
        """Put the sum over all processes in the place of every gradient.

        A parameter that has a gradient in no process keeps none, so that the optimizer passes it
        over as it does in one process.

        Args:
            parameters: the same in all processes; their gradients are of one type.
            value: a number that is summed with them.

        Returns:
            The sum of ``value``.
        """
        if self.alone:
            return value
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        there = torch.tensor([float(p.grad is not None) for p in trained], device=value.device)
        flat = torch.cat([*(grad.flatten() for grad in grads), there, value.float().view(1)])
        with self._connected():
            dist.all_reduce(flat)
        *sums, counts, total = flat.split([*(grad.numel() for grad in grads), len(trained), 1])
        for parameter, summed, count in zip(trained, sums, counts.tolist(), strict=True):
            parameter.grad = summed.view_as(parameter) if count else None
        return total[0]

    @torch.no_grad()
    def agree(self, tensors: Sequence[Tensor]) -> None:
        """Give ``tensors``, of one type, the values that they have in the first process."""
        if self.alone or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with self._connected():
            dist.broadcast(flat, 0)
        if not self.leads:
            parts = flat.split([tensor.numel() for tensor in tensors])
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    # -- how a run ends ---------------------------------------------------------------------------

    def end_with(self, error: BaseException) -> NoReturn:
        """Raise ``error`` where it is to be read: the first process raises what any has met, the
        others raise :class:`Stopped` once it does. One that the first does not hear of raises its
        own, as do those whose traceback is wanted."""
        own = not isinstance(error, Stopped)
        with suppress(RuntimeError):  # the store may have gone with its process
            if own and self._store.add(f"{_FAILURE}s", 1) == 1:
                text = str(error) if isinstance(error, InputError) else repr(error)
                self._store.set(_FAILURE, json.dumps({"rank": self.rank, "error": text}))
            # A process that is in a collective notices by the connection.
            _close()
            if self.leads:
                failure = self._failure()
                self._store.set(_HEARD, "")
                if failure["rank"] != 0 and not (own and isinstance(error, InputError)):
                    where = f"process {failure['rank']} of {self.size}"
                    raise InputError(f"{where}: {failure['error']}") from error
            elif own and _within(PATIENCE, lambda: self._store.check([_HEARD])):
                time.sleep(0.5)  # torchrun ends the first process when this one has ended
                if isinstance(error, InputError):
                    raise Stopped("another process of the run tells the error") from error
        raise error

    def leave(self) -> None:
        """The last thing of a process; the one that may hold the store waits for the others."""
        _close()
        with suppress(RuntimeError):
            if not self.leads:
                self._store.add(_LEFT, 1)
            elif not self._lost:
                _within(PATIENCE, lambda: self._store.add(_LEFT, 0) == self.size - 1)

    @property
    def _store(self) -> dist.Store:
        assert self._given is not None, "a process alone has none"
        return self._given

    def _next(self, what: str) -> str:
        """A key of its own for each call; all processes make the same calls."""
        self._calls += 1
        return f"{what} {self._calls}"

    def _wait(self, done: Callable[[], bool]) -> None:
        pause = 0.001
        with self._connected():
            while not done():
                if self._store.check([_FAILURE]):
                    raise Stopped("another process of the run has failed")
                time.sleep(pause)
                pause = min(2 * pause, 0.2)

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Turn a connection that is lost into the error of the process that it was lost to."""
        try:
            yield
        except RuntimeError as error:
            with suppress(RuntimeError):
                if _within(2, lambda: self._store.check([_FAILURE])):
                    raise Stopped("another process of the run has failed") from error
            self._lost = True
            raise InputError(
                "a process of the run has gone without a word, killed perhaps for lack of memory, "
                f"or was not heard of for {TIMEOUT}: {error}"
            ) from error

    def _failure(self) -> dict[str, Any]:
        """What the first process that failed has written."""
        _within(1, lambda: self._store.check([_FAILURE]))
        return json.loads(self._store.get(_FAILURE))


_ALONE = World()
_current = _ALONE
# The way to the other processes, once it is there, and how often they have met on it.
_met: tuple[dist.Store, int, int] | None = None
_meetings = 0


def current() -> World:
    """The processes that this one works with at the moment; by itself outside of :func:`joined`."""
    return _current


def launched() -> bool:
    """Whether this process was started, by torchrun or as it does, as one of several."""
    named = (_RANK, _SIZE, _LOCAL_RANK, _LOCAL_SIZE, *_ADDRESS)
    return all(name in os.environ for name in named) and os.environ[_SIZE] != "1"


@contextmanager
def joined() -> Iterator[World]:
    """Join the other processes for the block, if there are any; all leave it together.

    What others than the first process print inside is dropped. Inside another block of this kind
    nothing happens.

    Raises:
        InputError: the others cannot be reached; or one of them, or this process, has failed with
            an error about its input.
    """
    global _current
    if not _current.alone or not launched():
        yield _current
        return
    world = _joined()
    _current = world
    try:
        with _quiet(world):
            yield world
            world.meet()
    except BaseException as error:
        world.end_with(error)
    finally:
        _current = _ALONE
        world.leave()


def _joined() -> World:
    global _met, _meetings
    if dist.is_initialized():
        raise InputError(
            "torch.distributed is in use already: let recbole_sid join the processes, or unset "
            f"{_SIZE}"
        )
    # With fewer GPUs than processes they work on the processor, or are refused (Config).
    local_rank, local_size = (int(os.environ[name]) for name in (_LOCAL_RANK, _LOCAL_SIZE))
    on_gpus = local_size <= torch.cuda.device_count()
    if on_gpus:
        # Now: RecBole hides all but the first GPU from what starts later.
        torch.cuda.init()
        torch.cuda.set_device(local_rank)
    try:
        if _met is None:
            _met = next(rendezvous("env://", timeout=TIMEOUT))
        store, rank, size = _met
        # Nothing that an earlier run has left is read again.
        _meetings += 1
        store = dist.PrefixStore(f"recbole_sid {_meetings}", store)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
            store=dist.PrefixStore("groups", store),
            rank=rank,
            world_size=size,
            timeout=TIMEOUT,
        )
        # All are connected before any goes on: one that ended at once, refusing its settings, would
        # look to the others like one that they cannot reach.
        dist.all_reduce(torch.zeros(1))
    except (RuntimeError, ValueError) as error:
        address = ":".join(os.environ[name] for name in _ADDRESS)
        raise InputError(
            f"the {os.environ[_SIZE]} processes of the run cannot reach each other at {address}: "
            f"{error}"
        ) from error
    return World(rank, size, local_rank, local_size, dist.PrefixStore("told", store))


@contextmanager
def _quiet(world: World) -> Iterator[None]:
    """Only the first process prints."""
    if world.leads:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _within(seconds: float, done: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _close() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
