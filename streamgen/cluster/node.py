"""One node, as the gateway knows it."""

from __future__ import annotations

from urllib.parse import urlsplit

from streamgen.cluster.messages import Report, State, Told

SILENT_S = 2.0
"""A node of which nothing was heard for this long gets no more sessions, and has none that could be asked for (s)."""

EXPECTED_S = 5.0
"""A client that was led to a node is there by then, or does not come (s)."""

NEVER = float("-inf")


class Node:
    """Is told the time (s).

    starting -> ready <-> restarting      its engine
                ready <-> draining -> drained
    any -> silent | failed | lost -> starting, with another life
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.report: Report | None = None
        self.draining = False
        """As is wanted of it; what it says is in its report."""
        self.problem = ""
        """Why it has failed, or is lost."""
        self.restarts = 0
        """Lives that were seen after the first."""
        self.told_to_move = NEVER
        """When it was told last to send sessions away (s)."""
        self._life = ""
        self._machine = ""
        self._heard = NEVER
        self._lost = False
        self._expected: list[float] = []
        """When clients were led to it that it has not told of yet (s)."""

    def hear(self, now: float, told: Told) -> None:
        """What its host knows of it."""
        if told.life != self._life:
            self._be_reborn(told.life)
        report = told.report
        if report is not None:
            if self.report is None:
                self._come_up(report)
            else:
                del self._expected[: report.opened - self.report.opened]
        self.report, self.problem, self._lost = report, told.problem, False
        self._heard = NEVER if report is None else now - told.age_s

    def lose(self, problem: str) -> None:
        """Its host is gone."""
        self._lost, self.problem = True, problem

    def expect(self, now: float) -> None:
        """A client was led to it."""
        self._expected.append(now)

    def state(self, now: float) -> State:
        """Where it stands."""
        report = self.report
        if self._lost:
            return "lost"
        if self.problem:
            return "failed"
        if report is None:
            return "starting"
        if now - self._heard >= SILENT_S:
            return "silent"
        if report.state == "draining" or (self.draining and report.state == "ready"):
            return "draining" if report.sessions or report.working else "drained"
        if report.state in ("ready", "restarting"):
            return "ready" if report.state == "ready" else "restarting"
        return "starting"

    def answers(self, now: float) -> bool:
        """Whether it can be asked for what it has."""
        return self.state(now) != "silent" and self.exists(now)

    def exists(self, now: float) -> bool:
        """Whether it may have what it had, though it is silent."""
        return self.state(now) not in ("lost", "failed") and self.report is not None

    def fall_silent(self) -> None:
        """It did not answer: nobody is led to it until it is heard of again."""
        self._heard = NEVER

    def room(self, now: float) -> int:
        """For how many more sessions."""
        return self.report.room - self._coming(now) if self.report else 0

    def places(self, now: float) -> int:
        """For how many that wait, once there is no room."""
        return self.report.places - max(0, -self.room(now)) if self.report else 0

    def fill(self, now: float) -> float:
        """Share of what it has room for that is taken."""
        if self.report is None:
            return 1.0
        return self.taken(now) / max(1, self.report.sessions + self.report.room)

    def taken(self, now: float) -> int:
        """Sessions that it has, or will have soon."""
        return self.sessions + self._coming(now)

    @property
    def load(self) -> float:
        """Share of its device that is promised."""
        return self.report.load if self.report else 0.0

    @property
    def jobs(self) -> int:
        """Video files that it would take."""
        return self.report.jobs if self.report else 0

    @property
    def sessions(self) -> int:
        """That it has."""
        return self.report.sessions if self.report else 0

    @property
    def moving(self) -> int:
        """Sessions that were asked to go elsewhere."""
        return self.report.moving if self.report else 0

    def _coming(self, now: float) -> int:
        self._expected = [led for led in self._expected if now - led < EXPECTED_S]
        return len(self._expected)

    def _be_reborn(self, life: str) -> None:
        """It is another process."""
        self.restarts += bool(self._life)
        self._life, self.report = life, None
        self._expected.clear()
        self.told_to_move = NEVER

    def _come_up(self, report: Report) -> None:
        """Its first report. On another machine than before nobody has asked it to be emptied, but a gateway before."""
        machine = urlsplit(report.url).hostname or ""
        self.draining = report.draining or (self.draining and machine == self._machine)
        self._machine = machine
