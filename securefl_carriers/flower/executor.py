"""Work for a Flower process on this machine, with the apps that are installed here: what a run ships is not looked at.

Started with `--isolation process`, a SuperLink or a SuperNode runs no code. Whoever holds its secret asks it for tasks,
and does them: Flower's own `flower-superexec` would install and import what the run brought. This does not.

It is a process of its own: Flower interrupts the process that works for a run which somebody has ended.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx
from flwr.app import Error, Message
from flwr.common.constant import SubStatus
from flwr.common.serde import context_from_proto, run_from_proto
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from securefl_carriers.flower import apps
from securefl_carriers.flower.kit import LOOPBACK, NoKit, ServerKit, SiteKit, loaded

AGAIN_S: Final = 0.2  # between two questions for a task: Flower has no other way to hear of one
ACQUIRE: Final = frozenset({"/flwr.proto.Runtime/AcquireTask"})
NOT_CARRIED: Final = 403  # the code of an answer to a message of another kind


class Worker:
    """Does tasks of one kind for the Flower process of a kit, one after the other."""

    def __init__(self, kit: SiteKit | ServerKit) -> None:
        self._kit = kit
        self._address = f"{LOOPBACK}:{kit.port}"
        self._root = (kit.folder / "ca.crt").read_bytes() if isinstance(kit, ServerKit) else None

    def work(self) -> None:
        """Do what there is to do, until this process is interrupted."""
        server = isinstance(self._kit, ServerKit)
        kind, task = (TaskType.SERVER_APP, self._carry) if server else (TaskType.CLIENT_APP, self._answer)
        secret = (self._kit.folder / "secret").read_bytes()
        signs = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=ACQUIRE)
        with self._client("SuperExec", signs) as asking:
            while True:
                try:
                    token = asking.AcquireTask(AcquireTaskRequest(supported_task_types=[kind])).token
                    if token:
                        task(token)
                        continue
                except (httpx.HTTPError, RuntimeError, ValueError) as fault:
                    if not isinstance(fault, httpx.TransportError):  # it is not there yet, or no longer
                        with suppress(OSError):  # a log that nobody reads ends no carrying
                            print(f"securefl: a task ended by {type(fault).__name__}", flush=True)
                time.sleep(AGAIN_S)

    def _answer(self, token: str) -> None:
        """Answer one message at a site."""
        with self._client("flwr-clientapp", RuntimeTokenHttpInterceptor(token)) as client:
            message, context, _, _ = pull_task_input(client)
            if message.metadata.message_type == apps.POLL:
                reply = apps.client(message, context)
            else:
                reply = Message(Error(NOT_CARRIED, "only polls are answered"), reply_to=message)
            push_message(client, reply, context)
            push_task_output(client, None, SubStatus.COMPLETED, "")

    def _carry(self, token: str) -> None:
        """Carry, for as long as the run lasts."""
        grid = HttpGrid(self._address, insecure=False, root_certificates=self._root, token=token)
        with self._client("flwr-serverapp", RuntimeTokenHttpInterceptor(token)) as client:
            alive = HeartbeatSender(make_task_heartbeat_fn_http(client))
            alive.start()
            try:
                told = client.PullTaskInput(PullTaskInputRequest())
                run = run_from_proto(told.run)
                TaskIdentity.task_id, TaskIdentity.run_id = told.task_id, run.run_id
                TaskIdentity.node_id = told.context.node_id  # where Flower's messages look
                grid.set_run(run)
                apps.server(grid, context_from_proto(told.context))
            finally:
                alive.stop()
                grid.close()

    def _client(self, name: str, *more: ProtobufClientInterceptor) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            self._address, self._root is None, self._root, [RuntimeVersionHttpInterceptor(component_name=name), *more]
        )


def main() -> None:
    """Work for a kit, until interrupted."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        Worker(loaded(Path(sys.argv[1]))).work()
    except NoKit as fault:
        sys.exit(str(fault))
    except KeyboardInterrupt:
        os._exit(0)  # doors are closed; Flower's own threads may wait for a SuperLink that has ended, and for ever


if __name__ == "__main__":
    main()
