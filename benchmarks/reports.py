"""`python -m benchmarks.reports`: what the application is told when nodes, clients or it itself fail.

Four nodes on one Redis, 1,000 users in 500 chats, and an application that gets the reports over HTTP, checks
their signature, drops repeated ones and follows who is in which chat. In turn:

- Redis commands of the idle nodes and of 1,000 joins, with and without reports;
- all clients of a node are cut, and return within 4 s: nobody has to be told to have left;
- a node is killed, in every second round the one that reports, and starts again; half of its clients return
  elsewhere within 3 s. Each chat that is vacated so has to be told once within 30 s;
- the application fails, while users come and go; in the middle of a long failure, the reporting node is
  killed. Afterwards each visit has to have been told once, in order.

Prints measurements against targets; exit code 1 where one is missed. Of cuts, rounds and the outage, 0 leaves
the part out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from benchmarks.drain import Node
from benchmarks.presence import Stage, in_pairs, line, staged, until
from benchmarks.processes import CannotRunError, measured
from benchmarks.redis_commands import Commands, memory
from benchmarks.reports_counts import JOINS, Tally, join_all, metric
from benchmarks.reports_parts import ANSWERS, Application, Told, User, Users

LATE: Final = 60.0
"""Seconds after which a report doesn't come any more."""
AWAY: Final = 8.0
"""Seconds between two visits of a user, at least: more than the reporter holds back."""
REST: Final = 20.0
"""Seconds until a reporter that was killed starts again, every second time; it is the next one otherwise."""
MOST_WAITING: Final = 50_000
LONG: Final = 60.0
"""Seconds of a failure of the application in which a node is killed, too."""


class Reports:
    """The nodes, the users and the application."""

    def __init__(self, stage: Stage, users: list[User], application: Application) -> None:
        self._stage, self.nodes = stage, stage.nodes
        self._users, self._application = Users(users), application
        self._visits: Counter[User] = Counter()
        self._skipped = 0

    # -- the parts --------------------------------------------------------------------------------

    async def cuts(self, count: int) -> bool:
        """Cut all clients of a node, again and again. Returns whether the application was told nothing."""
        began, first = time.monotonic(), len(self._application.told)
        for _ in range(count):
            node = random.choice(self.nodes)
            cut = [user for user in self._users.all if user.node is node]
            for user in cut:
                user.cut()
            await asyncio.gather(
                *(user.return_to(random.choice(self.nodes), random.uniform(0.5, 3.9)) for user in cut)
            )
            await asyncio.sleep(2)
        await asyncio.sleep(AWAY)
        kinds = Counter(told.type for told in self._application.told[first:])
        away = max(user.longest_away(began) for user in self._users.all)
        text = ", ".join(f"{kinds[kind]} {kind}" for kind in ("chat_vacated", "user_left", "user_joined"))
        return line(f"{count} cuts of a node", f"{text}; away for {away:.1f} s at most", "0", not kinds)

    async def kills(self, rounds: int) -> bool:
        """Kill nodes, and count what the application is told. Returns whether it was all right."""
        chats, users = Tally(), Tally()
        first = len(self._application.told)
        for number in range(rounds):
            reporter = await self._reporter()
            others = [node for node in self.nodes if node is not reporter]
            node = reporter if number % 2 == 0 else random.choice(others)
            await self._kill(node, chats, users, REST if number % 4 == 0 else 0)
        wrong = self._users.wrong(self._application.told[first:])
        senseless = len(self._application.senseless)
        met = [
            line(f"{rounds} kills: chats vacated", str(chats), "all once", chats.is_met),
            line(f"{rounds} kills: users gone", str(users), "all once", users.is_met),
            line(
                f"{rounds} kills: wrong",
                f"{wrong[0]} vacated though occupied, {wrong[1]} left though there, {senseless} senseless",
                "0, 0, 0",
                not any(wrong) and not senseless,
            ),
        ]
        return all(met)

    async def _kill(self, node: Node, chats: Tally, users: Tally, rest: float) -> None:
        hit = [user for user in self._users.all if user.node is node]
        gone = random.sample(hit, len(hit) // 2)
        first, began = len(self._application.told), time.monotonic()
        await node.end(signal.SIGKILL)
        starting = asyncio.create_task(self._start(node, rest))
        others = [each for each in self.nodes if each is not node]
        homes = {chat: random.choice(others) for chat in self._users.by_chat}
        back = [user for user in hit if user not in set(gone)]
        await asyncio.gather(*(user.return_to(homes[user.chat], random.uniform(0, 2.9)) for user in back))
        present = self._users.present()
        vacated = {user.chat for user in gone} - present.keys()
        left = {user.user for user in gone}

        def told(kind: str) -> list[Told]:
            return [each for each in self._application.told[first:] if each.type == kind]

        await _wait(
            lambda: (
                vacated <= {each.chat for each in told("chat_vacated")}
                and left <= {each.user for each in told("user_left")}
            ),
            began + LATE - time.monotonic(),
        )
        await asyncio.sleep(3)  # for one that is told twice
        chats.add(vacated, [(each.chat, each.at - began) for each in told("chat_vacated")])
        users.add(left, [(each.user, each.at - began) for each in told("user_left")])
        await starting
        await asyncio.gather(*(user.return_to(homes[user.chat], random.uniform(0, 1)) for user in gone))
        await self.settle()

    async def _start(self, node: Node, after: float) -> None:
        await asyncio.sleep(after)
        await node.start()

    async def outage(self, answers: str, seconds: float, rate: float) -> bool:
        """Let the application fail, while users come and go. Returns whether it was told all in the end."""
        wandering = random.sample(self._users.all, len(self._users.all) // 2)
        for user in wandering:
            user.leave()
        await asyncio.sleep(AWAY)
        await self.settle()
        self._visits.clear()
        self._skipped = 0
        application = self._application
        counts, first, repeated = application.counts.copy(), len(application.told), application.repeated
        calm = min(30.0, seconds)
        async with Commands(self._stage.redis_port) as commands:
            await self._visiting(wandering, calm, rate)
            before = commands.count / calm
        await self.settle()
        data, calmly = await memory(self._stage.redis_port), len(application.told)
        application.answers, application.failed = answers, 0
        application.over.clear()
        async with Commands(self._stage.redis_port) as commands:
            began = time.monotonic()
            if seconds < LONG:
                await self._visiting(wandering, seconds, rate)
            else:
                await self._visiting(wandering, seconds / 2 - 2 * AWAY, rate)
                await self._fail_over()
                await self._visiting(wandering, began + seconds - time.monotonic(), rate)
            during = commands.count / (time.monotonic() - began)
        data = await memory(self._stage.redis_port) - data
        waiting = sum([await metric(node, "eclipse_reports_waiting") for node in self.nodes])
        application.answers = "takes"
        application.over.set()
        over = time.monotonic()

        def missing() -> int:
            return sum(
                abs(application.counts[key] - counts[key] - visits)
                for user, visits in self._visits.items()
                for key in (("user_joined", user.chat, user.user), ("user_left", user.chat, user.user))
            )

        await _wait(lambda: not missing() and application.chats == self._users.present(), LATE)
        took = max((each.at for each in application.told[calmly:]), default=over) - over
        await asyncio.sleep(3)
        senseless, wrong = len(application.senseless), missing()
        others = {user for user in self._users.all if user not in self._visits}
        others_told = sum(each.user in {user.user for user in others} for each in application.told[first:])
        is_settled = application.chats == self._users.present()
        visits, again = sum(self._visits.values()), application.repeated - repeated
        for text in (
            f"the application {_SAYS[answers]} for {seconds:.0f} s, after {calm:.0f} s in which it is well:",
            f"  {visits:,} visits of {len(wandering)} users; {self._skipped} times nobody was free to visit",
            f"  {waiting:,.0f} reports waiting at its end, {MOST_WAITING:,} may",
            f"  {application.failed} batches answered with 500, {again:,} reports repeated",
            f"  Redis commands: {before:.1f} a second before, {during:.1f} then; data {data / 1e6:+.1f} MB",
        ):
            print(text, flush=True)
        met = [
            line(
                f"outage ({answers}): each visit once",
                f"{wrong} of {2 * visits:,} missing or more than once, {senseless} senseless, "
                f"{others_told} of users who stayed",
                "0, 0, 0",
                not wrong and not senseless and not others_told and is_settled,
            ),
            line(
                f"outage ({answers}): backlog told", f"{took:.1f} s after it", f"< {LATE:.0f} s", took < LATE
            ),
        ]
        for user in wandering:
            await user.return_to(random.choice(self.nodes), 0)
        await self.settle()
        return all(met)

    async def _visiting(self, users: list[User], seconds: float, rate: float) -> None:
        """Let users visit their chats, of which each was away before and is afterwards."""
        away = deque((user, 0.0) for user in random.sample(users, len(users)))
        visits: set[asyncio.Task[None]] = set()
        stop = time.monotonic() + seconds - AWAY - 6

        async def visit(user: User) -> None:
            await user.return_to(random.choice(self.nodes), 0)
            self._visits[user] += 1
            await asyncio.sleep(random.uniform(1, 6))
            user.leave()
            away.append((user, time.monotonic()))

        while time.monotonic() < stop:
            if away and away[0][1] <= time.monotonic() - AWAY:
                task = asyncio.create_task(visit(away.popleft()[0]))
                visits.add(task)
                task.add_done_callback(visits.discard)
            else:
                self._skipped += 1
            await asyncio.sleep(1 / rate)
        await asyncio.gather(*visits)
        await asyncio.sleep(AWAY)

    async def _fail_over(self) -> None:
        """Kill the reporter, return its users, and wait until another node reports.

        A visit that nobody has noticed, as long as there is no reporter, isn't told: so nobody visits now.
        """
        node = await self._reporter()
        others = [each for each in self.nodes if each is not node]
        back = [user for user in self._users.all if user.is_open and user.node is node]
        await node.end(signal.SIGKILL)
        await asyncio.gather(
            *(user.return_to(random.choice(others), random.uniform(0, 2.9)) for user in back)
        )
        await node.start()
        await self._reporter()
        await asyncio.sleep(2)

    # -- what they share --------------------------------------------------------------------------

    async def settle(self) -> None:
        """Wait until the application knows who is there. Raises CannotRunError."""
        told = self._application.chats
        await _wait(lambda: told == self._users.present(), LATE)
        here = self._users.present()
        if wrong := [chat for chat in {*told, *here} if told.get(chat) != here.get(chat)]:
            chat = wrong[0]
            raise CannotRunError(
                f"the application is wrong about {len(wrong)} chats after {LATE:.0f} s, such as {chat}: "
                f"it was told {told.get(chat)}, there are {here.get(chat)}"
            )

    async def _reporter(self) -> Node:
        """The node that reports, once there is one."""
        deadline = time.monotonic() + LATE
        while time.monotonic() < deadline:
            for node in self.nodes:
                if node.accepts and await metric(node, "eclipse_reporting"):
                    return node
            await asyncio.sleep(0.5)
        raise CannotRunError("no node reports")


_SAYS: Final = {
    "errors": "answers 500",
    "hangs": "doesn't answer",
    "repeats": "takes reports and answers 500",
}


async def _wait(condition: Callable[[], bool], seconds: float) -> None:
    """Wait for a condition, but not longer."""
    with contextlib.suppress(TimeoutError):
        await until(condition, seconds)


async def measure(given: argparse.Namespace) -> int:
    """Measure and print. Returns the exit code."""
    users = in_pairs(User, given.users)
    async with staged(users, "ABCD") as stage:
        without = await join_all(stage, users, given.seconds)
    users = in_pairs(User, given.users)
    application = Application()
    async with staged(users, "ABCD", {"ECLIPSE_APP_EVENTS_URL": application.url}) as stage:
        reports = Reports(stage, users, application)
        costs = await join_all(stage, users, given.seconds)
        await reports.settle()
        print(f"{given.users} users on four nodes, without and with reports:")
        print(f"  idle: {without[0]:.2f} and {costs[0]:.2f} Redis commands a second")
        print(
            f"  1,000 joins, {JOINS:.0f} a second: {without[1]:.0f} and {costs[1]:.0f} commands", flush=True
        )
        met = []
        if given.cuts:
            met.append(await reports.cuts(given.cuts))
        if given.rounds:
            met.append(await reports.kills(given.rounds))
        for answers in given.answers or ANSWERS[:1] if given.outage else ():
            met.append(await reports.outage(answers, given.outage, given.visits))
    unsigned = application.unsigned
    met.append(line("signatures", f"{unsigned} batches without a right one", "0", not unsigned))
    return 0 if all(met) else 1


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reports",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--users", type=int, default=1000, help="users, two in a chat (1000)")
    parser.add_argument("--seconds", type=float, default=30, help="of each count of idle commands (30)")
    parser.add_argument("--cuts", type=int, default=20, help="cuts of a node's clients (20)")
    parser.add_argument("--rounds", type=int, default=20, help="kills of a node (20)")
    parser.add_argument(
        "--outage", type=float, default=600, help="seconds for which the application fails (600)"
    )
    parser.add_argument("--answers", action="append", choices=ANSWERS, help="how; may be repeated (errors)")
    parser.add_argument("--visits", type=float, default=15, help="visits a second meanwhile (15)")
    given = parser.parse_args()
    return measured(measure(given))


if __name__ == "__main__":
    sys.exit(main())
