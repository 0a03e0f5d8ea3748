"""Running an agent as a process: logging, signals, the line that says it is ready."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hyle_substrates.driver import Driver

from hyle_agent.agent import Agent
from hyle_agent.config import Config
from hyle_agent.drivers import find_device
from hyle_agent.errors import ConfigError
from hyle_agent.program import Load

__all__ = ["OneLine", "announce", "serve"]

_LOG = logging.getLogger(__name__)
_STOPS = (signal.SIGTERM, signal.SIGINT)
_OPENING_S = 2.0
_FIRST_RELEASE = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)


class OneLine(logging.Formatter):
    """Keeps a message on its line, whatever names it tells of, so that nobody can write an entry of their own."""

    def format(self, record: logging.LogRecord) -> str:
        """Escape what is not printable; a trace alone has lines."""
        kept = "\n" if record.exc_info else ""
        text = super().format(record)
        return "".join(c if c.isprintable() or c == kept else c.encode("unicode_escape").decode() for c in text)


def serve(
    config: Config,
    *,
    ready: Callable[[str], None] = lambda address: None,
    load: Load | None = None,
    connect: Callable[[Mapping[str, str]], Driver] | None = None,
) -> None:
    """Run an agent until SIGTERM or SIGINT, then drain and return; before it is ready too.

    Args:
        config: What the operator decided.
        ready: Told the address, `HOST:PORT`, once the agent is ready.
        load: Makes programs; the executor's by default.
        connect: Opens the driver; the one that `config` names by default.

    Raises:
        HyleError: The agent cannot start.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    _leave_no_core()
    _mind_the_clock(config)
    asyncio.run(_run(lambda: Agent(config, load=load or _load(), connect=connect or _device(config)), ready))


def announce(address: str, ready_file: Path | None) -> None:
    """Say on stderr, and in a file that appears whole, that the agent is ready and where.

    Raises:
        ConfigError: The file cannot be written.
    """
    print(f"hyle agent ready on {address}", file=sys.stderr, flush=True)
    if ready_file is not None:
        fresh = ready_file.with_name(f".{ready_file.name}.{os.getpid()}")
        try:
            fresh.write_text(address)
            fresh.replace(ready_file)
        except OSError as error:
            message = f"The ready file {ready_file} cannot be written: {error.strerror}."
            raise ConfigError(message, remedy="Name a file in a folder that the agent may write to.") from error


async def _run(make: Callable[[], Agent], ready: Callable[[str], None]) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in _STOPS:
        loop.add_signal_handler(name, stopped.set)
    stop = asyncio.create_task(stopped.wait())
    making = _aside(make)
    either: set[asyncio.Future[Any]] = {making, stop}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if stop.done():
        await asyncio.wait({making}, timeout=_OPENING_S)
        if not making.done():
            _LOG.warning("the device was still being opened at the stop, and was abandoned")
            return
    agent = making.result()
    start = asyncio.create_task(agent.start())
    try:
        await asyncio.wait({start, stop}, return_when=asyncio.FIRST_COMPLETED)
        if start.done():
            ready(start.result())
            await stop
    finally:
        start.cancel()
        await agent.stop()


def _aside(make: Callable[[], Agent]) -> asyncio.Future[Agent]:
    """Make the agent on a thread that nobody waits for at the end: opening a device may hang."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[Agent] = loop.create_future()

    def work() -> None:
        try:
            agent = make()
        except BaseException as error:
            tell(made.set_exception, error)
        else:
            tell(made.set_result, agent)

    def tell(settle: Callable[[Any], None], what: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the stop came first
            loop.call_soon_threadsafe(settle, what)

    threading.Thread(target=work, name="start", daemon=True).start()
    return made


def _device(config: Config) -> Callable[[Mapping[str, str]], Driver]:
    box = config.black_box
    return find_device(config.driver.name, box.name if box else "", box.words() if box else {})


def _leave_no_core() -> None:
    """Keep what is in memory, requests among it, out of core files and out of what collects them through a pipe.

    A limit of 0 forbids files only; at 1 byte Linux neither writes a file nor starts the collector (core(5),
    coredump.c).
    """
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    limit = 1 if most == resource.RLIM_INFINITY else min(1, most)
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


def _mind_the_clock(config: Config) -> None:
    """Say it if the clock was never set, as on a board without a battery: no certificate is valid yet then."""
    now = datetime.datetime.now(datetime.UTC)
    if config.tls is not None and now < _FIRST_RELEASE:
        _LOG.warning(
            "the clock says %s, before this software was written: callers' certificates are refused until it is set; "
            "let a time service run before the agent",
            now.date(),
        )


def _load() -> Load:
    from hyle_agent.executor import load

    return load
