"""The first rank's thread: rows enter the ring here, and come back here after every step.

It has the device to itself, and does in this order of precedence:

    what came back      predictions become latents, which take their next step or leave; pictures are handed over
    rows                that have steps behind them: what is nearly done is finished first
    tasks               of other threads: opening and closing streams, encoding chunks
    rows                that are new

A second thread waits for what comes back, one more for the reports of each other rank.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from pipelines.causal_wan.denoiser import LatentRow, Pass
from pipelines.ring.balance import Balancer
from pipelines.ring.contexts import Contexts
from pipelines.ring.denoising import RingDenoiser
from pipelines.ring.entrance import Entrance, Traveller
from pipelines.ring.group import Group, Incoming
from pipelines.ring.harm import harmless
from pipelines.ring.microbatch import MicroBatch
from pipelines.ring.moving import carry_out
from pipelines.ring.operations import CloseDecoder, Decode, Final, Move, Report, Rows, Stop
from pipelines.ring.packing import SIDE, put_times, result_shape, returned, status
from pipelines.ring.rank import REPORT_S
from pipelines.ring.stage import Stage
from pipelines.ring.tail import final_shape, picture_shape
from pipelines.ring.times import BLOCKS, RingTimes
from streamgen.errors import DeviceLostError, EngineError

logger = logging.getLogger(__name__)

T = TypeVar("T")

_REASONS = 64
"""So many streams' failures are remembered."""

_ENDING_S = 2.0
"""How long the other ranks may take to leave."""

Back = Callable[[Tensor | Exception], None]
"""Gets what came back, or why nothing did."""


@dataclass(frozen=True, slots=True, eq=False)
class _Sent:
    """Something that will come back."""

    incoming: Incoming
    back: Back


@dataclass(frozen=True, slots=True)
class Ending:
    """What is to become of a row whose last step this is."""

    strength: float
    """As Final.strength."""
    vae: str
    leading: bool
    shown: Callable[[Tensor | Exception], None]
    """Gets its pictures (T, H, W, 3), uint8, on the CPU, or why there are none."""


@dataclass(slots=True, eq=False)
class Journey:
    """A chunk that takes all its steps: as it is now, and how it is to end. Whatever happens, it does so once."""

    row: LatentRow
    ending: Ending


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """Work for the first rank's thread."""

    run: Callable[[], None]
    abort: Callable[[Exception], None]


class Head:
    """Sends passes and latents round the ring.

    After a rank was lost everything raises DeviceLostError, and everything under way comes to that.
    """

    def __init__(
        self,
        group: Group,
        stage: Stage,
        denoiser: RingDenoiser,
        contexts: Contexts,
        balancer: Balancer,
        entrance: Entrance[Journey],
    ) -> None:
        self.times = RingTimes(group.size)
        """What work takes, rank by rank."""
        self.balancer = balancer
        self._group, self._stage, self._denoiser, self._contexts = group, stage, denoiser, contexts
        self.entrance = entrance
        self._microbatch = MicroBatch()
        self._limit = group.size + 1
        self._under_way = 0
        self._journeys: dict[Journey, None] = {}
        """Those that have not ended, in the order in which they came."""
        self._failures: dict[int, str] = {}
        self._lost: DeviceLostError | None = None
        self._stopping = False
        self._reported = time.monotonic()
        self._news = threading.Condition()
        """For what follows."""
        self._arrived: deque[tuple[_Sent, Tensor]] = deque()
        self._reports: deque[Report] = deque()
        self._tasks: deque[_Task] = deque()
        self._expected: queue.SimpleQueue[_Sent | None] = queue.SimpleQueue()
        self._outstanding: deque[_Sent] = deque()
        self._waiting = [threading.Thread(target=self._wait_for_results, name="ring-results", daemon=True)]
        self._waiting += [
            threading.Thread(target=self._wait_for_reports, args=(rank,), name=f"ring-reports-{rank}", daemon=True)
            for rank in range(1, group.size)
        ]
        self._thread = threading.Thread(target=self._work, name="ring-head", daemon=True)
        for thread in (*self._waiting, self._thread):
            thread.start()

    def do(self, task: Callable[[], T]) -> T:
        """Runs `task` on the first rank's thread; its result, or what it raises. For other threads."""
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(task())
            except DeviceLostError as error:
                done.set_exception(error)
                raise
            except Exception as error:  # noqa: BLE001 - it is raised where the task came from
                done.set_exception(error)

        with self._news:
            if self._lost is not None or self._stopping:
                raise self._lost or DeviceLostError("the ring was stopped")
            self._tasks.append(_Task(run, done.set_exception))
            self._news.notify()
        return done.result()

    def wait_for(self, start: Callable[[Callable[[list[T | Exception]], None]], None]) -> list[T]:
        """What comes back of something that `start`, a task, sends round, or raises. For other threads."""
        came: Future[list[T | Exception]] = Future()
        self.do(lambda: start(came.set_result))
        results: list[T] = []
        for result in came.result():
            if isinstance(result, Exception):
                raise result
            results.append(result)
        return results

    def stop(self) -> None:
        """Ends all ranks, after what is under way. Calling it twice is harmless. For other threads."""
        with self._news:
            self._stopping = True
            self._news.notify()
        self._thread.join()
        last = time.monotonic() + _ENDING_S
        for thread in self._waiting:  # one that still waits when the interpreter ends would abort it
            thread.join(max(0.0, last - time.monotonic()))

    @property
    def one_by_one(self) -> bool:
        """Whether every row has a pass to itself."""
        return self._microbatch.most(2) == 1

    def come(self, traveller: Traveller[Journey]) -> None:
        """A chunk takes all its steps. In tasks only, as all that follows."""
        self._journeys[traveller.row] = None
        self.entrance.come(traveller)

    def leave(self, stream: int, why: Exception) -> None:
        """The stream's chunks that wait for a step end here; its decoder is not needed any more."""
        for traveller in self.entrance.forget(stream):
            self._conclude(traveller.row, why)
        self._failures.pop(stream, None)
        self._group.tell(CloseDecoder(stream), [self._group.last])

    def send_pass(
        self,
        rows: Sequence[LatentRow],
        back: Callable[[list[LatentRow | Exception]], None],
        ending: Sequence[Journey | None] | None = None,
    ) -> None:
        """One step of rows of one size, which all lead or none do; `back` gets what became of them, in their order.

        ending: of each row the journey that this step is the last of. What is raised, but for DeviceLostError, is
        raised before other ranks know of the pass.
        """
        passing = self._denoiser.begin(rows)
        ends = [None if ending is None else ending[place] for place in passing.order]
        operation = self._denoiser.operation(
            passing, [_final(end, level.sigma) for end, level in zip(ends, passing.levels, strict=True)]
        )
        shape = self._stage.prediction_shape(operation)

        def predicted(came: Tensor | Exception) -> None:
            self._under_way -= 1
            result: list[LatentRow | Exception] = list(rows)
            try:
                here = _there(came)
                finished = self._denoiser.finish(passing, returned(here, shape))
                failed = status(here).flatten().tolist()
            except Exception as error:  # noqa: BLE001 - a model may raise anything; it costs these rows
                result = [error] * len(rows)
            else:
                for place, row, wrong, stream in zip(passing.order, finished, failed, operation.streams, strict=True):
                    result[place] = self._failure(stream) if wrong else row
            back(result)

        latent, condition, times = self._denoiser.inputs(passing)
        message = self._stage.room_for(self._stage.message_shape(operation))
        put_times(message, times)
        awaited: list[tuple[Tensor, Back]] = [(self._stage.room_for(result_shape(shape)), predicted)]
        awaited += self._awaited_pictures(operation, ends, shape)
        sources = _sources(passing, ends)
        self._group.tell(operation)  # from here on nothing may keep from being sent what others wait for
        for room, its in awaited:
            self._expect(room, its)
        if sources is not None:
            self._group.send("latents", self._group.last, sources)
        self._under_way += 1
        with harmless(self._stage, operation.streams, message):
            with self._stage.watch.span("beside", len(rows)):
                x, _ = self._stage.model.embed(latent, condition)
            message[:, :-SIDE] = self._stage.through(operation, x, times[1])
        self._group.send("rows", self._group.next, message)
        self._denoiser.placed(passing)

    def _awaited_pictures(
        self, operation: Rows, ends: Sequence[Journey | None], shape: tuple[int, ...]
    ) -> list[tuple[Tensor, Back]]:
        """Room for the pictures of rows that take their last step, and what to do with them."""
        awaited: list[tuple[Tensor, Back]] = []
        for end, final, stream in zip(ends, operation.finals, operation.streams, strict=True):
            if end is not None and final is not None:
                its = final_shape(final, shape)
                room = torch.empty(result_shape(its), dtype=torch.uint8, device=self._stage.device)
                awaited.append((room, partial(self._shown, end, stream, its)))
        return awaited

    def _shown(self, journey: Journey, stream: int, shape: tuple[int, ...], came: Tensor | Exception) -> None:
        """A journey's pictures have come."""
        try:
            here = _there(came).cpu()
        except Exception as error:  # noqa: BLE001 - as in send_pass
            self._conclude(journey, error)
            return
        self._conclude(journey, self._failure(stream) if status(here).any() else returned(here, shape)[0])

    def _conclude(self, journey: Journey, result: Tensor | Exception) -> None:
        """The end of a journey, if it has not ended."""
        if journey in self._journeys:
            del self._journeys[journey]
            journey.ending.shown(result)

    def send_latents(
        self,
        streams: tuple[int, ...],
        vae: str,
        latents: Tensor,
        frames: int,
        back: Callable[[list[Tensor | Exception]], None],
    ) -> None:
        """Latents (B, C, 1, h, w), of which the last rank makes pictures (T, H, W, 3) with T = `frames`, on the CPU."""
        operation = Decode(streams, vae, tuple(latents.shape), frames)
        shape = picture_shape(operation)

        def decoded(came: Tensor | Exception) -> None:
            try:
                here = _there(came).cpu()
            except Exception as error:  # noqa: BLE001 - as in send_pass
                back([error] * len(streams))
                return
            pictures, failed = returned(here, shape), status(here).flatten().tolist()
            results = zip(streams, pictures, failed, strict=True)
            back([self._failure(stream) if wrong else picture for stream, picture, wrong in results])

        room = torch.empty(result_shape(shape), dtype=torch.uint8, device=latents.device)
        sent = latents.contiguous()
        self._group.tell(operation, [self._group.last])  # as in send_pass
        self._expect(room, decoded)
        self._group.send("latents", self._group.last, sent)

    def move(self, move: Move) -> None:
        """A block goes to a neighbour, between what was sent before and what will be sent."""
        self._group.tell(move)
        carry_out(move, self._group, self._stage)

    def _work(self) -> None:
        try:
            self._group.enter_thread()
            with torch.inference_mode():
                while self._turn():
                    pass
                self._group.tell(Stop())
                self._group.settle()
            error = DeviceLostError("the ring was stopped")
        except DeviceLostError as lost:
            error = lost
        except Exception as failure:
            logger.exception("the first rank of the ring failed")
            error = DeviceLostError(f"the first rank failed: {type(failure).__name__}: {failure}")
        self._end(error)

    def _turn(self) -> bool:
        """One piece of work; False where there will be no more."""
        arrived, task, reports = self._next()
        for report in reports:
            self._learn(report)
        if arrived is not None:
            sent, tensor = arrived
            sent.back(tensor)
        elif task is not None:
            task.run()
        elif self._sendable:
            self._send_next()
        elif self._done:
            return False
        self._look_after()
        return True

    def _next(self) -> tuple[tuple[_Sent, Tensor] | None, _Task | None, list[Report]]:
        """What has come meanwhile and is to be done first; waits where there is nothing to do at all."""
        sendable = self._sendable
        with self._news:
            if not sendable:
                self._news.wait_for(self._something_came, REPORT_S)
            if self._lost is not None:
                raise self._lost
            reports = [self._reports.popleft() for _ in range(len(self._reports))]
            if self._arrived:
                return self._arrived.popleft(), None, reports
            if self._tasks and not (sendable and self.entrance.begun()):
                return None, self._tasks.popleft(), reports
            return None, None, reports

    def _something_came(self) -> bool:
        return bool(self._arrived or self._tasks or self._reports or self._lost or self._done)

    @property
    def _done(self) -> bool:
        """Whether there is nothing left to do before the end, but for rows that may go."""
        with self._news:
            return self._stopping and not (self._outstanding or self._arrived or self._tasks)

    @property
    def _sendable(self) -> bool:
        """Whether rows may go: each rank has one pass, and the first of them that is free another."""
        return self._under_way < self._limit and self.entrance.able() > 0

    def _send_next(self) -> None:
        """The rows that go first, as one pass."""
        travellers = self.entrance.next(self._microbatch.most(self.entrance.able()))
        journeys = [traveller.row for traveller in travellers]
        ending = [journey if journey.row.step + 1 == journey.row.steps else None for journey in journeys]

        def back(rows: list[LatentRow | Exception]) -> None:
            for traveller, end, row in zip(travellers, ending, rows, strict=True):
                if end is not None:
                    continue  # its pictures come behind this
                if isinstance(row, Exception):
                    self._give_up(traveller, row)
                    continue
                traveller.row.row = row
                if not self.entrance.back(traveller):
                    self._conclude(traveller.row, EngineError("the stream was closed"))

        try:
            self.send_pass([journey.row for journey in journeys], back, ending)
        except DeviceLostError:
            raise
        except Exception as error:  # noqa: BLE001 - as in send_pass
            for traveller in travellers:
                self._give_up(traveller, error)

    def _give_up(self, traveller: Traveller[Journey], why: Exception) -> None:
        """Its journey ends here."""
        self.entrance.give_up(traveller)
        self._conclude(traveller.row, why)

    def _expect(self, room: Tensor, back: Back) -> None:
        sent = _Sent(self._group.receive("results", self._group.last, room), back)
        self._outstanding.append(sent)
        self._expected.put(sent)

    def _failure(self, stream: int) -> Exception:
        """Why nothing of use came of a stream, as far as that is known by now."""
        return EngineError(self._failures.get(stream, "a device failed at it"))

    def _learn(self, report: Report) -> None:
        self._failures |= report.failures
        for stream in list(self._failures)[:-_REASONS]:  # of most the end was before their failure was known
            del self._failures[stream]
        per_row = self.times.learn(report)
        if per_row is not None:
            self.balancer.observe(report.rank, *per_row)
        if report.rank == 0 and report.amounts.get(BLOCKS):
            for rows, (passes, seconds) in report.passes.items():
                self._microbatch.observe(rows, seconds / passes)

    def _look_after(self) -> None:
        """Now and then: what the first rank did itself is looked at, and whether a block should move."""
        self._contexts.sweep()
        now = time.monotonic()
        if now - self._reported < REPORT_S:
            return
        self._reported = now
        report = self._stage.watch.report()
        if report.amounts:
            self._learn(report)
        move = self.balancer.next_move(now)
        if move is not None:
            self.move(Move(move.layer, move.source, move.target))

    def _wait_for_results(self) -> None:
        self._group.enter_thread()
        try:
            while (sent := self._expected.get()) is not None:
                tensor = sent.incoming.wait()
                with self._news:
                    if not self._outstanding:
                        return  # it has ended, and whoever waited was told so
                    self._arrived.append((self._outstanding.popleft(), tensor))
                    self._news.notify()
        except DeviceLostError as error:
            self._lose(error)

    def _wait_for_reports(self, rank: int) -> None:
        try:
            while True:
                report = self._group.reported(rank)
                with self._news:
                    self._reports.append(report)
                    self._news.notify()
        except DeviceLostError as error:
            self._lose(error)

    def _lose(self, error: DeviceLostError) -> None:
        with self._news:
            if self._lost is None:
                self._lost = error
            self._news.notify()

    def _end(self, error: DeviceLostError) -> None:
        """Nothing comes back any more, and nothing is done: everybody who waits is told."""
        with self._news:
            self._lost = self._lost or error
            outstanding, arrived, tasks = list(self._outstanding), list(self._arrived), list(self._tasks)
            self._outstanding.clear()
            self._arrived.clear()
            self._tasks.clear()
        self._expected.put(None)
        for sent in [sent for sent, _ in arrived] + outstanding:
            _tell(lambda sent=sent: sent.back(error))  # type: ignore[misc]
        self.entrance.clear()
        for journey in list(self._journeys):
            _tell(lambda journey=journey: self._conclude(journey, error))  # type: ignore[misc]
        for task in tasks:
            task.abort(error)


def _final(journey: Journey | None, sigma: float) -> Final | None:
    if journey is None:
        return None
    ending = journey.ending
    return Final(sigma, ending.strength, ending.vae, ending.leading)


def _sources(passing: Pass, ends: Sequence[Journey | None]) -> Tensor | None:
    """What the last rank needs to make pictures of rows that take their last step: their latents and conditions."""
    rows = [row for row, end in zip(passing.rows, ends, strict=True) if end is not None]
    if not rows:
        return None
    return torch.stack([torch.cat([row.latent for row in rows]), torch.cat([row.condition for row in rows])])


def _there(came: Tensor | Exception) -> Tensor:
    """What has come; raises why nothing has."""
    if isinstance(came, Exception):
        raise came
    return came


def _tell(callback: Callable[[], None]) -> None:
    """One of many who wait for the end: what it raises must not keep others from being told."""
    try:
        callback()
    except Exception:
        logger.exception("somebody who was told of the end of the ring failed at it")
