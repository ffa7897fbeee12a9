"""The two apps: a message brings a poll to a site, and its reply what the site says. Neither is read.

`server` runs beside the coordinator: it opens a door for each site whose key the server's owner admitted. `client`
runs at a site: it asks the one socket that the site's owner wrote into the node's own configuration. No message names a
socket, and no run brings a setting.
"""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from securefl_carriers.doors import Doors, Unreached
from securefl_carriers.flower.kit import ServerKit
from securefl_carriers.polls import Unreadable
from securefl_carriers.site_end import SiteEnd

POLL: Final = "query.poll"  # the one kind of message
RECORD, BYTES = "securefl", "bytes"  # where its bytes stand
AGENT: Final = "agent"  # in a node's configuration: the socket of `securefl site serve`
NO_POLL: Final = 400  # the code of an answer to what is no poll
WAY_S: Final = 20.0  # there and back: a SuperNode looks for messages every three seconds
LOOK_S: Final = 1.0  # between two looks who is there
PULL_S: Final = 0.1  # between two looks for replies, while some are waited for

client, server = ClientApp(), ServerApp()
_ends: dict[str, SiteEnd] = {}  # one for each socket: one, for as long as this process lives


@client.query(POLL.partition(".")[2])
def answer(message: Message, context: Context) -> Message:
    """Answer one poll, within `HOLD_S` seconds."""
    try:
        said = _end(str(context.node_config[AGENT])).answer(_bytes_of(message))
    except Unreadable as fault:
        return Message(Error(NO_POLL, str(fault)), reply_to=message)
    return Message(_content(said), reply_to=message)


def _end(agent: str) -> SiteEnd:
    return _ends.setdefault(agent, SiteEnd(Path(agent), patient=True))


@server.main()
def carry(grid: Grid, _: Context) -> None:
    """Carry between doors and sites, until Flower ends the run. A second run waits for the first one's end."""
    kit = ServerKit.of_this_process()
    kit.doors.mkdir(mode=0o700, parents=True, exist_ok=True)
    with kit.turn():
        mail = Mail(grid)
        doors = Doors(kit.doors, mail.ask, kit.let_in, WAY_S)
        try:
            mail.carry(kit, doors)
        finally:
            doors.close()


@dataclass(eq=False)
class _Poll:
    """One poll under way."""

    site: str
    data: bytes
    until: float
    node: int = 0  # Flower's number of who was asked, once it was
    reply: queue.SimpleQueue[bytes | None] = field(default_factory=queue.SimpleQueue)


class Mail:
    """What is under way. Doors ask from threads of their own; one thread alone speaks to Flower."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._new: queue.SimpleQueue[_Poll] = queue.SimpleQueue()
        self._under_way: dict[str, _Poll] = {}
        self._numbers = itertools.count()

    def ask(self, site: str, poll: bytes, allowed_s: float) -> bytes:
        """Bring a poll to a site and its answer back.

        Raises:
            Unreached: none came in time.
        """
        asked = _Poll(site, poll, time.monotonic() + allowed_s)
        self._new.put(asked)
        try:
            reply = asked.reply.get(timeout=allowed_s)
        except queue.Empty:
            reply = None
        if reply is None:
            raise Unreached(site)
        return reply

    def carry(self, kit: ServerKit, doors: Doors) -> None:
        """Push polls and pull replies, for ever; a site has a door once it is there, while it is let in."""
        looked = -LOOK_S
        nodes: Mapping[str, int] = {}
        while True:
            if time.monotonic() - looked >= LOOK_S:
                there, nodes, looked = set(self._grid.get_node_ids()), kit.nodes.served(), time.monotonic()
                for name in set(doors.names) - set(nodes):
                    doors.shut(name)
                self._drop(nodes)
                for name, node in nodes.items():
                    if node in there and name not in doors.names and doors.open(name):
                        print(f"securefl: a door for {name}", flush=True)
            self._push(nodes, PULL_S if self._under_way else LOOK_S)
            self._pull()

    def _push(self, nodes: Mapping[str, int], wait_s: float) -> None:
        """Push every poll that is new; wait for one a while."""
        try:
            new = [self._new.get(timeout=wait_s)]
        except queue.Empty:
            return
        while not self._new.empty():
            new.append(self._new.get())
        for poll in new:
            left = poll.until - time.monotonic()
            if left <= 0 or poll.site not in nodes:
                poll.reply.put(None)
                continue
            poll.node = nodes[poll.site]
            out = Message(_content(poll.data), poll.node, POLL, ttl=left, group_id=str(next(self._numbers)))
            (number,) = self._grid.push_messages([out]) or (None,)
            if number is None:
                poll.reply.put(None)
            else:
                self._under_way[number] = poll

    def _drop(self, nodes: Mapping[str, int]) -> None:
        """Wait no more for a node that is not let in, or not under that name."""
        for number, poll in [*self._under_way.items()]:
            if nodes.get(poll.site) != poll.node:
                poll.reply.put(None)
                del self._under_way[number]

    def _pull(self) -> None:
        """Hand on the replies that are there; forget what nobody waits for."""
        if not self._under_way:
            return
        for reply in self._grid.pull_messages(list(self._under_way)):
            poll = self._under_way.pop(reply.metadata.reply_to_message_id, None)
            if poll is None:
                continue
            try:
                poll.reply.put(_bytes_of(reply))
            except Unreadable:
                poll.reply.put(None)  # an error of Flower's, or of the site's end
        now = time.monotonic()
        for number in [number for number, poll in self._under_way.items() if poll.until < now]:
            del self._under_way[number]


def _content(data: bytes) -> RecordDict:
    return RecordDict({RECORD: ConfigRecord({BYTES: data})})


def _bytes_of(message: Message) -> bytes:
    """Return the bytes of a message.

    Raises:
        Unreadable: it has none.
    """
    record = message.content.get(RECORD) if message.has_content() else None
    data = record.get(BYTES) if isinstance(record, ConfigRecord) else None
    if not isinstance(data, bytes):
        raise Unreadable("no message of this carrier")
    return data
