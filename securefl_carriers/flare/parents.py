"""FLARE's own long-lived processes carry: components of a kit's `local/resources.json`. There is no job.

`Agent` stands at each party that is asked, `Relay` where somebody asks: at the server for the coordinator, and at a
custodian for the shares of its key. Both keep what their kit's owner wrote; no message names a socket.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, Final

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_context import FLContext
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.utils import make_reply, new_cell_message

from securefl_carriers.doors import Doors, Unreached
from securefl_carriers.flare.sealing import Participants, Unsealed
from securefl_carriers.polls import Unreadable
from securefl_carriers.site_end import SiteEnd

CHANNEL, TOPIC, SERVER = "securefl", "poll", "server"
LOOK_S: Final = 1.0  # between two looks who has joined
SAY_S: Final = 60.0  # between two lines about the same refusal


class Agent(FLComponent):
    """Answers polls with what the party behind ``agent``, a socket's absolute path, says.

    Args:
        agent: the socket of `securefl site serve`.
        asked_by: whose polls are answered, as NAME=KEY.
    """

    def __init__(self, agent: str, asked_by: list[str] | None = None) -> None:
        super().__init__()
        self.agent, self.asked_by = agent, [SERVER] if asked_by is None else list(asked_by)
        if not Path(agent).is_absolute():
            raise ValueError(f"agent: {agent} is no absolute path")
        self._end, self._askers = SiteEnd(Path(agent)), Participants(self.asked_by)
        self.register_event_handler(EventType.SYSTEM_START, self._start)
        self.register_event_handler(EventType.SYSTEM_END, self._stop)

    def _start(self, event_type: str, fl_ctx: FLContext) -> None:
        self._cell = _cell(fl_ctx)
        self._cell.register_request_cb(channel=CHANNEL, topic=TOPIC, cb=self._polled)
        self.log_info(fl_ctx, f"securefl: polls of {', '.join(self._askers.names)} go to {self.agent}")

    def _stop(self, event_type: str, fl_ctx: FLContext) -> None:
        self._end.close()

    def _polled(self, message: Any) -> Any:  # noqa: ANN401 - FLARE's messages
        asker = message.get_header(MessageHeaderKey.ORIGIN)
        if asker not in self._askers.names:
            return make_reply(ReturnCode.AUTHENTICATION_ERROR)
        try:
            answer = self._end.answer(self._askers.opened(self._cell, asker, message.payload))
            return make_reply(ReturnCode.OK, "", self._askers.sealed(self._cell, asker, answer))
        except Unsealed:
            return make_reply(ReturnCode.AUTHENTICATION_ERROR)
        except Unreadable:
            return make_reply(ReturnCode.INVALID_REQUEST)


class Relay(FLComponent):
    """Opens a door, in the folder ``doors``, for each of FLARE's clients that is known here.

    Args:
        doors: an absolute path; the folder is this process's alone.
        let_in: users who may ask beside this process's, by uid.
        sites: whom doors are opened for, as NAME=KEY; None: at a server, whoever joins.
    """

    def __init__(self, doors: str, let_in: list[int] | None = None, sites: list[str] | None = None) -> None:
        super().__init__()
        self.doors, self.let_in, self.sites = doors, list(let_in or ()), sites
        if not Path(doors).is_absolute():
            raise ValueError(f"doors: {doors} is no absolute path")
        self._enough, self._said = threading.Event(), dict[str, float]()
        self.register_event_handler(EventType.SYSTEM_START, self._start)
        self.register_event_handler(EventType.SYSTEM_END, self._stop)

    def _start(self, event_type: str, fl_ctx: FLContext) -> None:
        cell, engine = _cell(fl_ctx), fl_ctx.get_engine()
        known = None if self.sites is None else Participants(self.sites)

        def ask(site: str, poll: bytes, allowed_s: float) -> bytes:
            asked = known or Participants([site])
            try:
                request = new_cell_message({}, asked.sealed(cell, site, poll))
                reply = cell.send_request(
                    channel=CHANNEL, target=site, topic=TOPIC, request=request, timeout=allowed_s, optional=True
                )
                code = reply.get_header(MessageHeaderKey.RETURN_CODE)
                if code != ReturnCode.OK:
                    raise Unreached(f"{site}: {code}")
                return asked.opened(cell, site, reply.payload)
            except Unsealed as fault:
                self._say(str(fault))
                raise Unreached(site) from fault

        def look() -> None:
            doors = Doors(Path(self.doors), ask, self.let_in)
            while not self._enough.is_set():
                for name in known.names if known is not None else [each.name for each in engine.get_clients()]:
                    if name not in doors.names and doors.open(name):
                        self.logger.info("securefl: a door for %s", name)
                self._enough.wait(LOOK_S)
            doors.close()

        threading.Thread(target=look, daemon=True, name="securefl doors").start()

    def _say(self, what: str) -> None:
        now = time.monotonic()
        if now - self._said.get(what, now - SAY_S) >= SAY_S:
            self._said[what] = now
            self.logger.warning("securefl: nothing is handed on: %s", what)

    def _stop(self, event_type: str, fl_ctx: FLContext) -> None:
        self._enough.set()


def _cell(fl_ctx: FLContext) -> Any:  # noqa: ANN401 - FLARE's cell
    """Return the way of this process to the others: a client's engine has it under one name, a server's under two."""
    engine = fl_ctx.get_engine()
    return engine.get_cell() or engine.server.cell
