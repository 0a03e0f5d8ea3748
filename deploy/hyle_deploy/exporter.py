"""A fleet's telemetry as Prometheus metrics, for dashboards: `python -m hyle_deploy.exporter --broker HOST:PORT`.

Every number and truth value of the Sparkplug messages becomes a gauge, `latency/p99_s` of a model
`hyle_model_latency_p99_s{group,node,model}`; texts become labels of `hyle_node_info` and `hyle_model_info`.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from hyle_errors import CallerError, HyleError

from hyle_deploy.watch import BrokerAddress, FleetWatch, Watched

__all__ = ["exposition", "main", "serve"]

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# A reason changes with every sentence; as a label it would make a new series each time.
_NO_LABEL = frozenset({"model", "reason"})

Series = tuple[str, dict[str, str], float]


def exposition(watched: Watched) -> str:
    """Return the text that Prometheus scrapes.

    Args:
        watched: What a watch has seen.
    """
    series = [*_own(watched), *(one for node in watched.nodes for one in _node(node))]
    names = sorted({name for name, _, _ in series})
    lines = []
    for name in names:
        lines.append(f"# TYPE {name} gauge")
        lines += [f"{name}{_labels(labels)} {value!r}" for other, labels, value in series if other == name]
    return "\n".join(lines) + "\n"


def serve(watch: Callable[[], Watched], host: str, port: int) -> ThreadingHTTPServer:
    """Bind a server that answers `GET /metrics`; the caller runs and closes it.

    Args:
        watch: Says what was seen so far; asked at every scrape.
        host: Address to listen on.
        port: Its TCP port, 0 for a free one.

    Raises:
        CallerError: The address is taken or not this machine's.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path.partition("?")[0] == "/metrics"
            body = exposition(watch()).encode() if found else b"See /metrics.\n"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", _CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Keep scrapes out of the log."""

    try:
        return ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise CallerError(
            f"{host}:{port} cannot be listened on: {error.strerror}.", remedy="Choose another --listen HOST:PORT."
        ) from error


def _own(watched: Watched) -> Iterator[Series]:
    yield "hyle_broker_connected", {}, float(watched.connected)
    yield "hyle_messages", {}, float(watched.messages)
    yield "hyle_messages_refused", {}, float(watched.refused)


def _node(node: Mapping[str, Any]) -> Iterator[Series]:
    labels = {"group": str(node["group"]), "node": str(node["node"])}
    yield "hyle_node_online", labels, float(node["state"] == "online")
    yield "hyle_node_gaps", labels, float(node["gaps"])
    yield "hyle_node_last_seen_seconds", labels, float(node["last_seen"])
    yield from _metrics("hyle_node", labels, node["metrics"])
    for name, model in node["models"].items():
        inner = {**labels, "model": name}
        yield "hyle_model_online", inner, float(model["online"])
        yield from _metrics("hyle_model", inner, model["metrics"])


def _metrics(prefix: str, labels: dict[str, str], metrics: Mapping[str, object]) -> Iterator[Series]:
    texts = {_name(name): value for name, value in metrics.items() if isinstance(value, str) and name not in _NO_LABEL}
    yield f"{prefix}_info", {**texts, **labels}, 1.0
    for name, value in metrics.items():
        if isinstance(value, (bool, int, float)):
            yield f"{prefix}_{_name(name)}", labels, float(value)


def _name(metric: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", metric)


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    escaped = {key: text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for key, text in labels.items()}
    return "{" + ",".join(f'{key}="{text}"' for key, text in sorted(escaped.items())) + "}"


def _listen(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def main(argv: Sequence[str] | None = None) -> int:
    """Export until SIGTERM or SIGINT.

    Args:
        argv: Arguments; those of the process by default.

    Returns:
        0 after a clean stop, else the error's exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m hyle_deploy.exporter", description="Telemetry for Prometheus.")
    parser.add_argument("--broker", required=True, metavar="HOST:PORT", help="MQTT broker that the agents report to")
    parser.add_argument(
        "--listen", type=_listen, default="127.0.0.1:9464", metavar="HOST:PORT", help="where Prometheus scrapes"
    )
    parser.add_argument("--group", help="only this Sparkplug group (default: all)")
    parser.add_argument("--username", help="account at the broker")
    parser.add_argument("--password-file", metavar="FILE", help="its password, on the first line")
    parser.add_argument("--ca", metavar="FILE", help="certificates (PEM) to check the broker's against; turns TLS on")
    args = parser.parse_args(argv)
    try:
        return _run(args)
    except HyleError as error:
        print(f"error: {error.message}\n{error.remedy}", file=sys.stderr)
        return error.exit_code


def _run(args: argparse.Namespace) -> int:
    broker = BrokerAddress.parse(args.broker, username=args.username, password_file=args.password_file, ca_file=args.ca)
    host, port = args.listen
    with FleetWatch(broker, args.group) as watch, serve(watch.state, host, port) as server:
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: threading.Thread(target=server.shutdown).start())
        print(f"hyle exporter ready on {host}:{server.server_address[1]}", file=sys.stderr, flush=True)
        server.serve_forever(poll_interval=0.2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
