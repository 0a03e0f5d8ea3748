"""What `hyle demo` does, step by step, with the real parts: compiler, broker, agent, client, watcher."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hyle_bundle
from hyle_deploy.broker import Broker, start_broker
from hyle_deploy.client import Client, connect
from hyle_deploy.query import ask
from hyle_deploy.samples import read_samples
from hyle_deploy.watch import BrokerAddress, FleetWatch
from hyle_errors import CallerError, InternalError

from hyle import verbs
from hyle.console import Console

__all__ = ["Demo"]

READY_S = 30.0
STOP_S = 15.0
TELEMETRY_S = 10.0


class Demo:
    """The whole way, once.

    Args:
        model: Folder with `model.onnx`, `calib.npz` and `eval.npz`.
        target: Substrate to compile for.
        out: Where the files go.
        instances: Device instances for the accuracy.
        console: Told what happens.
    """

    def __init__(self, model: Path, target: str, out: Path, instances: int, console: Console) -> None:
        missing = [name for name in ("model.onnx", "calib.npz", "eval.npz") if not (model / name).is_file()]
        if missing:
            raise CallerError(
                f"{model} has no {missing[0]}.", remedy="Give a folder with model.onnx, calib.npz and eval.npz."
            )
        self._model, self._target, self._out, self._instances, self._console = model, target, out, instances, console
        self._name = model.resolve().name

    def run(self) -> dict[str, object]:
        """Compile, evaluate, start, deploy, query, watch, update, roll back, stop.

        Returns:
            Everything that was measured, as one JSON document.
        """
        begin = time.perf_counter()
        self._out.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._out / "store", ignore_errors=True)
        key = self._key()
        first = self._compile("1", 1, key)
        with verbs.open(first) as bundle:
            evaluation = bundle.evaluate(
                self._model / "eval.npz", instances=self._instances, model=self._model / "model.onnx"
            )
            report = self._out / "report.html"
            report.write_bytes(bundle.read("report.html"))
        with contextlib.ExitStack() as stack:
            broker = stack.enter_context(start_broker(self._out))
            watch = stack.enter_context(FleetWatch(BrokerAddress.parse(f"{broker.host}:{broker.port}")))
            client = stack.enter_context(self._agent(broker, key.with_suffix(".pub")))
            lived = self._live(client, watch, first, key)
        return {
            "evaluation": evaluation,
            "broker": broker.kind,
            **lived,
            "report": str(report),
            "seconds": time.perf_counter() - begin,
        }

    def _live(self, client: Client, watch: FleetWatch, first: Path, key: Path) -> dict[str, Any]:
        self._console.progress("deploying version 1")
        client.deploy(first)
        query = self._query(client)
        second = self._compile("2", 2, key)
        self._console.progress("deploying version 2 while version 1 serves")
        update = client.deploy(second)
        serving = client.metadata(self._name).versions
        if serving != ("2",):
            raise InternalError(f"After the update the agent serves {serving}.", remedy="Look at the agent's log.")
        _, version = client.rollback(self._name)
        answers = self._query(client, count=100)
        deadline = time.monotonic() + TELEMETRY_S
        while not watch.state().nodes and time.monotonic() < deadline:
            watch.wait(0.2)
        state = watch.state()
        return {
            "query": query,
            "query_after_rollback": answers,
            "delta_bytes": update.sent_bytes,
            "bundle_bytes": update.bundle_bytes,
            "rolled_back_to": version,
            "telemetry_messages": state.messages,
            "fleet": state.nodes,
        }

    def _key(self) -> Path:
        path = self._out / "demo.key"
        if not path.exists():
            self._console.progress("making a signing key")
            hyle_bundle.generate_key("demo", self._out)
        return path

    def _compile(self, version: str, counter: int, key: Path) -> Path:
        path = self._out / f"{self._name}-{version}.hyle"
        verbs.compile(
            self._model / "model.onnx",
            target=self._target,
            calib=self._model / "calib.npz",
            output=path,
            key=key,
            progress=lambda text: self._console.progress(f"compiling version {version}, {text}"),
            name=self._name,
            version=version,
            counter=counter,
            seed=counter - 1,
            instances=3,
        )
        return path

    def _query(self, client: Client, count: int | None = None) -> dict[str, Any]:
        info = client.metadata(self._name)
        samples = read_samples(self._model / "eval.npz", info.inputs)
        samples = samples if count is None else samples.head(count)
        self._console.progress(f"asking {len(samples)} questions over gRPC")
        found = ask(client, self._name, samples, batch=1)
        return {
            "samples": len(samples),
            "accuracy": found.accuracy,
            "requests_per_s": found.requests / found.seconds,
            "p50_s": found.latency.p50_s,
            "p99_s": found.latency.p99_s,
        }

    @contextlib.contextmanager
    def _agent(self, broker: Broker, trusted: Path) -> Iterator[Client]:
        """Run the agent in a process of its own, and stop it cleanly at the end."""
        ready = self._out / "agent.ready"
        ready.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "hyle",
            "agent",
            "run",
            "--listen",
            "127.0.0.1:0",
            "--store",
            str(self._out / "store"),
        ]
        command += ["--driver", "twin", "--profile", self._target, "--seed", "7", "--trust", str(trusted)]
        command += ["--broker", f"{broker.host}:{broker.port}", "--node", "demo", "--ready-file", str(ready)]
        self._console.progress("starting the agent")
        with (self._out / "agent.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        try:
            with connect(self._await(process, ready)) as client:
                yield client
        finally:
            self._console.progress("stopping the agent")
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _await(self, process: subprocess.Popen[bytes], ready: Path) -> str:
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if ready.is_file():
                return ready.read_text().strip()
            if process.poll() is not None:
                break
            time.sleep(0.02)
        process.kill()
        text = (self._out / "agent.log").read_text(errors="replace").strip().splitlines()
        raise InternalError(
            f"The agent did not start: {text[-1] if text else 'no word'}.", remedy=f"Read {self._out}/agent.log."
        )
