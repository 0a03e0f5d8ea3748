"""What `hyle agent init` writes: a configuration that explains itself, and the certificates it names."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from hyle_agent.certificates import make_authority, make_identity
from hyle_agent.errors import ConfigError

__all__ = ["Written", "write_initial"]

_LONGEST_NAME = 253
_NAME = re.compile(
    r"(?:\*\.)?[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?)*"
)

_TEMPLATE = """\
# Configuration of a hyle edge agent. Relative paths are relative to this file's folder.
# Run it with: hyle agent run --config {path}

# The agent's name in its fleet.
node = "{node}"

# Where to serve, HOST:PORT or unix:PATH. Beyond 127.0.0.1 the [tls] table below is needed, with its client_ca.
listen = "127.0.0.1:8500"

# Folder of the installed bundles; one agent owns it.
store = "hyle-store"

# Public keys (the .pub of `hyle keys new`) of those whose bundles run here.
trusted = []

# Also run bundles that none of them signed. Only on 127.0.0.1.
insecure = false

# Threads for the digital part of a model. A simulated device uses every core that the process may (CPUAffinity=).
threads = 1

# Requests that may wait for the device; more are refused with RESOURCE_EXHAUSTED.
queue = 256

# Samples of several requests that one execution may answer; 1 for a device that takes one at a time.
max_batch = 64

# What serves: "completion-queue" (fast), "aio", or "auto" for the first of them that passes its self-test.
engine = "auto"

# Largest request, MiB.
max_message_mb = 64

# Longest time that a stop waits for answers in progress, seconds.
drain_s = 10.0

# Time between self-tests of what serves, seconds; 0 for none. Each runs golden vectors between two requests.
self_test_interval_s = 300.0

# How long a newly activated version is on trial, seconds; 0 for no trial. If its self-test fails, most of its requests
# break or the process dies watch_deaths times before it is over, the version before serves again by itself.
watch_s = 30.0
watch_deaths = 3

# Mean time between two false drift alarms, seconds (a year); 0 for no drift detection. The shorter, the sooner a drift
# is found.
false_alarm_interval_s = 31536000.0

# Measure the compensation anew, between requests, when the device drifts or fails its self-test.
recalibrate = true

# What answers while the device cannot: "none" (the model is not ready), its "twin" (with its noise and errors), or
# "digital" (the compiled model computed exactly). Answers, ModelReady and telemetry say which it is; the device serves
# again as soon as it passes its self-test.
fallback = "none"

# Longest time that the device may take for one self-test or one step of a calibration, seconds; then it counts as hung.
device_timeout_s = 60.0

# Public keys of those who may sign overrides (`hyle override`), which let one agent install an older bundle once; by
# default those of `trusted`.
operators = []

[driver]
# The driver that owns the device. "twin" simulates one.
name = "twin"

# A black box beside a matrix device, for bundles with layers of both kinds; a black box alone is the driver.
# [black_box]
# name = "audio"
# options = {{ device = "default", inputs = 8 }}

[driver.options]
# Of the twin: which device, and which instance of it.
profile = "pcm-hermes"
seed = 0

[maintenance]
# The device can be lent to a compiler that calibrates or adapts on it (hyle compile --device). What answers meanwhile
# if it needs the whole device: "refuse" answers UNAVAILABLE with the reason, "twin" goes on from its digital twin.
serve = "refuse"

# Which instance of the twin that is.
twin_seed = 0

# Lend free tiles where there are enough of them, so that what serves goes on.
free_tiles = true

# A lease that is not renewed for so long is over, seconds; whoever has it renews it three times as often.
expire_s = 15.0

# How long a lease outlives a broken connection, seconds, unless it is renewed.
grace_s = 10.0

# No lease lasts longer, seconds.
longest_s = 14400.0

[tls]
# The agent's certificate and key, and the authority that a client's certificate must come from. What a client may do
# stands in its certificate: certs/client.crt may operate the agent, certs/query.crt may only ask it.
certificate = "certs/agent.crt"
key = "certs/agent.key"
client_ca = "certs/authority.crt"

# Reports of the agent over MQTT (Sparkplug B): aggregates only.
# [telemetry]
# host = "127.0.0.1"
# port = 1883
# group = "hyle"
# interval_s = 10.0
# username = "agent"
# password_file = "mqtt-password"
# ca_file = "broker-ca.crt"
"""


@dataclass(frozen=True, slots=True)
class Written:
    """The files that were written."""

    config: Path
    files: tuple[Path, ...]


def write_initial(folder: Path, hosts: tuple[str, ...] = ()) -> Written:
    """Write `agent.toml` and `certs/`; nothing that is there is overwritten.

    Args:
        folder: Where; made if it is not there.
        hosts: Names and addresses beyond this host's own that clients will call the agent by.

    Raises:
        ConfigError: Something is there already, or cannot be written, or a host has no name or address.
    """
    named = tuple(_host(host) for host in hosts)
    config, certificates = folder / "agent.toml", folder / "certs"
    for path in (config, certificates):
        if path.exists():
            raise ConfigError(f"{path} is there already.", remedy="Choose another folder, or move it away.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        certificates.mkdir(mode=0o700)
        _write_certificates(certificates, named)
        shown = "".join(letter if letter.isprintable() else "?" for letter in str(config))
        config.write_text(_TEMPLATE.format(path=shown, node=socket.gethostname()), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror}.", remedy="Choose another folder.") from error
    return Written(config, (config, *sorted(certificates.iterdir())))


def _host(text: str) -> str:
    """Return a host as a certificate names it, letters beyond ASCII in IDNA's."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(text))
    with contextlib.suppress(UnicodeError):
        name = text.encode("idna").decode()
        if len(name) <= _LONGEST_NAME and _NAME.fullmatch(name):
            return name
    message = f"--host: expected a name or an address that the agent is called by, got {text[:64]!r}."
    raise ConfigError(message, remedy="Give it like edge-1.example or 192.0.2.7, without a port.")


def _write_certificates(folder: Path, hosts: tuple[str, ...]) -> None:
    names = dict.fromkeys(("localhost", "127.0.0.1", "::1", socket.gethostname(), *hosts))
    authority = make_authority("hyle fleet authority")
    authority.write(folder, "authority")
    make_identity(authority, socket.gethostname(), tuple(names)).write(folder, "agent")
    make_identity(authority, "operator", role="operate").write(folder, "client")
    make_identity(authority, "reader", role="query").write(folder, "query")
