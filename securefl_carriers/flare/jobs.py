"""The other arrangement: one job of FLARE's carries, and each site's own launcher keeps that job's process alive.

At the server `Submitting` stands in the kit's resources: it submits the one job that there is, whenever none runs, so
that nobody else may submit any. At a site `Supervised` stands in the place of FLARE's launcher. The job names two
classes, `JobAgent` and `JobRelay`, and nothing else: whom they ask, and where, they read in their own machine's kit.
"""

from __future__ import annotations

import io
import json
import logging
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final
from zipfile import ZipFile

from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey, SystemComponents
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.job_def import JobMetaKey, RunStatus
from nvflare.apis.job_launcher_spec import JobHandleSpec, JobReturnCode
from nvflare.apis.shareable import ReturnCode, Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.app_common.job_launcher.client_process_launcher import ClientProcessJobLauncher
from nvflare.lighter.utils import load_private_key_file, sign_folders

from securefl_carriers.doors import Doors, Unreached
from securefl_carriers.flare.sealing import Participants, Unsealed
from securefl_carriers.polls import Unreadable
from securefl_carriers.site_end import SiteEnd

TOPIC, SERVER, NAME = "securefl.poll", "server", "securefl"
HERE = __name__
UNDER_WAY: Final = {each.value for each in (RunStatus.SUBMITTED, RunStatus.DISPATCHED, RunStatus.RUNNING)}
LOOK_S: Final = 1.0
LATE_S: Final = 30.0  # to wait for a site before the job begins without it
AFTER_S: Final = 5.0  # between two looks whether it still runs
AGAIN_S: Final = 0.2  # before a process that died is started again
JOB: Final = {
    "meta.json": {"name": NAME, "resource_spec": {}, "deploy_map": {"app": ["@ALL"]}, "min_clients": 1},
    "app/config/config_fed_server.json": {
        "format_version": 2, "components": [], "workflows": [{"id": "carry", "path": f"{HERE}.JobRelay", "args": {}}],
    },
    "app/config/config_fed_client.json": {
        "format_version": 2, "components": [],
        "executors": [{"tasks": [NAME], "executor": {"path": f"{HERE}.JobAgent", "args": {}}}],
    },
}  # fmt: skip


class Submitting(FLComponent):
    """Submits the job at the server, whenever none runs: once all of ``sites`` are there, or it waited long enough.

    FLARE gives a job to who is there when it begins; a site that comes later has to wait for the next one.

    Args:
        doors: an absolute path: the folder with a socket for each site, of this machine's users alone.
        sites: who takes part, as NAME=KEY.
        let_in: users who may ask beside this process's, by uid.
    """

    def __init__(self, doors: str, sites: list[str], let_in: list[int] | None = None) -> None:
        super().__init__()
        self.doors, self.sites, self.let_in = doors, list(sites), list(let_in or ())
        self._enough = threading.Event()
        self.register_event_handler(EventType.SYSTEM_START, self._start)
        self.register_event_handler(EventType.SYSTEM_END, lambda *_: self._enough.set())

    def _start(self, event_type: str, fl_ctx: FLContext) -> None:
        threading.Thread(target=self._keep, args=(fl_ctx.get_engine(),), daemon=True, name="securefl job").start()

    def _keep(self, engine: Any) -> None:  # noqa: ANN401 - FLARE's engine
        startup = Path(engine.get_workspace().get_startup_kit_dir())
        wanted, job, since = set(Participants(self.sites).names), "", time.monotonic()
        while not self._enough.wait(LOOK_S if not job else AFTER_S):
            there = wanted & {each.name for each in engine.get_clients()}
            if not there or (there < wanted and time.monotonic() - since < LATE_S):
                continue
            with engine.new_context() as fl_ctx:
                jobs = engine.get_component(SystemComponents.JOB_MANAGER)
                found = jobs.get_job(job, fl_ctx) if job else None
                if found is None or str(found.meta.get(JobMetaKey.STATUS.value)) not in UNDER_WAY:
                    job = str(jobs.create(_meta(), _packed(startup), fl_ctx)[JobMetaKey.JOB_ID.value])
                    since = time.monotonic()
                    self.logger.info("securefl: job %s carries", job)


def _meta() -> dict[str, Any]:
    who = (JobMetaKey.SUBMITTER_NAME, JobMetaKey.SUBMITTER_ORG, JobMetaKey.SUBMITTER_ROLE)
    return {**JOB["meta.json"], JobMetaKey.JOB_FOLDER_NAME.value: NAME, **{each.value: NAME for each in who}}


def _packed(startup: Path) -> bytes:
    """Return the job, each of its folders signed with the server's own key: clients take no other."""
    written = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, ZipFile(written, "w") as packed:
        for name, document in JOB.items():
            path = Path(folder) / NAME / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(document), encoding="utf-8")
        key = load_private_key_file(str(startup / "server.key"))
        sign_folders(str(Path(folder) / NAME), key, str(startup / "server.crt"))
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                packed.write(path, path.relative_to(folder))
    return written.getvalue()


class Supervised(ClientProcessJobLauncher):
    """A site's own launcher: a job's process that dies by a signal is started again, and the server is not told.

    Args:
        agent: the socket of `securefl site serve`, an absolute path.
        asked_by: whose polls are answered, as NAME=KEY.
    """

    def __init__(self, agent: str, asked_by: list[str] | None = None) -> None:
        super().__init__()
        self.agent, self.asked_by = agent, [SERVER] if asked_by is None else list(asked_by)

    def launch_job(self, job_meta: dict[str, Any], fl_ctx: FLContext) -> JobHandleSpec:
        """Start the job's process."""
        return _Handle(lambda: super(Supervised, self).launch_job(job_meta, fl_ctx))


class _Handle(JobHandleSpec):
    def __init__(self, start: Any) -> None:  # noqa: ANN401 - what FLARE's launcher does
        super().__init__()
        self._start, self._process, self._over = start, start(), False

    def terminate(self) -> None:
        self._over = True
        self._process.terminate()

    def poll(self) -> Any:  # noqa: ANN401 - FLARE's codes
        code = self._process.adapter.poll()
        return JobReturnCode.UNKNOWN if code is not None and code < 0 and not self._over else self._process.poll()

    def wait(self) -> None:
        while True:
            self._process.wait()
            code = self._process.adapter.poll()
            if self._over or code is None or code >= 0:
                return
            logging.getLogger(HERE).warning("securefl: the job's process died by signal %d; started again", -code)
            time.sleep(AGAIN_S)
            self._process = self._start()


class JobAgent(Executor):
    """In a job's process at a site: answers the server's polls with what the kit's own party says."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Begin and end with the job."""
        if event_type == EventType.START_RUN:
            told = _written(fl_ctx, Supervised)
            self._end, self._askers = SiteEnd(Path(told["agent"])), Participants(told.get("asked_by") or [SERVER])
            fl_ctx.get_engine().register_aux_message_handler(TOPIC, self._polled)
        elif event_type == EventType.END_RUN:
            self._end.close()

    def _polled(self, topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        cell = fl_ctx.get_engine().get_cell()
        try:
            answer = self._end.answer(self._askers.opened(cell, SERVER, request.get("data")))
            reply = make_reply(ReturnCode.OK)
            reply["data"] = self._askers.sealed(cell, SERVER, answer)
        except (Unsealed, Unreadable, KeyError):
            return make_reply(ReturnCode.BAD_REQUEST_DATA)
        return reply

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """There are no tasks."""
        return make_reply(ReturnCode.TASK_UNKNOWN)


class JobRelay(Controller):
    """In a job's process at the server: a door for each site that the kit names, for as long as the job runs."""

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Nothing is made before the flow begins."""

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing is left when it has ended."""

    def process_result_of_unknown_task(self, *args: object, **kwargs: object) -> None:
        """There are no tasks."""

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Keep the doors open until the job is to end."""
        engine, told = fl_ctx.get_engine(), _written(fl_ctx, Submitting)
        known = Participants(told["sites"])

        def ask(site: str, poll: bytes, allowed_s: float) -> bytes:
            request = Shareable()
            try:
                request["data"] = known.sealed(engine.get_cell(), site, poll)
                with engine.new_context() as asking:
                    said = engine.send_aux_request([site], TOPIC, request, allowed_s, asking, optional=True) or {}
                reply = said.get(site)
                if reply is None or reply.get_return_code() != ReturnCode.OK:
                    raise Unreached(site)
                return known.opened(engine.get_cell(), site, reply.get("data"))
            except Unsealed as fault:
                self.logger.warning("securefl: nothing is handed on: %s", fault)
                raise Unreached(site) from fault

        doors = Doors(Path(told["doors"]), ask, told.get("let_in") or ())
        for name in known.names:
            doors.open(name)
        while not abort_signal.triggered:
            time.sleep(LOOK_S)
        doors.close()


def _written(fl_ctx: FLContext, kind: type) -> dict[str, Any]:
    """What the owner of this machine's kit wrote for this class in its resources."""
    workspace = fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT) or fl_ctx.get_engine().get_workspace()
    resources = json.loads((Path(workspace.get_site_config_dir()) / "resources.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = next(
        each["args"] for each in resources["components"] if each["path"] == f"{HERE}.{kind.__name__}"
    )
    return found
