"""The configuration: what it says, who it lets in, and how it says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from hyle_agent.address import parse_address
from hyle_agent.config import Config, DriverConfig, Tls, check, read_config
from hyle_agent.drivers import find_driver
from hyle_agent.errors import ConfigError
from hyle_agent.initial import write_initial
from hyle_agent.options import Options, with_options
from hyle_agent.telemetry import TelemetryConfigError
from hyle_agent.trust import read_keys


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return path


def test_no_file_means_loopback_and_signed_bundles_only() -> None:
    config = read_config(None)
    assert (config.listen, config.insecure, config.trusted) == ("127.0.0.1:8500", False, ())
    check(config)


def test_the_initial_configuration_reads_back_as_the_defaults(tmp_path: Path) -> None:
    result = write_initial(tmp_path / "new")
    config = read_config(result.config)
    check(config)
    defaults = Config()
    for field in ("node", "listen", "trusted", "insecure", "threads", "queue", "max_message_mb", "drain_s"):
        assert getattr(config, field) == getattr(defaults, field)
    assert config.self_test_interval_s == defaults.self_test_interval_s
    assert config.driver == DriverConfig("twin", {"profile": "pcm-hermes", "seed": 0})
    assert config.store == str(tmp_path / "new/hyle-store")
    assert all(Path(path).is_file() for path in (config.tls.certificate, config.tls.key, config.tls.client_ca))
    assert (tmp_path / "new/certs/agent.key").stat().st_mode & 0o077 == 0
    uncommented = result.config.read_text().replace("# [telemetry]", "[telemetry]").split("[telemetry]")
    table = "\n".join(line.removeprefix("# ") for line in uncommented[1].splitlines())
    full = written(tmp_path, f"{uncommented[0]}[telemetry]{table}")
    telemetry = read_config(full).telemetry_config()
    assert (telemetry.username, telemetry.password_file) == ("agent", str(tmp_path / "mqtt-password"))


@pytest.mark.parametrize(
    "host", ["", " ", "a b", "a\nb", "10.0.0.1/24", "edge:8500", "x" * 64, "x." * 127 + "xx", "a..b", "-a", "https://a"]
)
def test_a_host_that_nobody_can_call_is_refused_before_anything_is_written(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match=r"^--host: expected a name or an address"):
        write_initial(tmp_path / "new", (host,))
    assert not (tmp_path / "new").exists()


def test_hosts_stand_in_the_certificate_as_clients_look_them_up(tmp_path: Path) -> None:
    hosts = ("edge_1.example", "bücher.example", "*.fleet.example", "192.0.2.7", "2001:db8::0007")
    tls = read_config(write_initial(tmp_path / "new", hosts).config).tls
    certificate = x509.load_pem_x509_certificate(Path(tls.certificate).read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"edge_1.example", "xn--bcher-kva.example", "*.fleet.example"} <= set(
        names.get_values_for_type(x509.DNSName)
    )
    addresses = set(map(str, names.get_values_for_type(x509.IPAddress)))
    assert {"192.0.2.7", "2001:db8::7"} <= addresses


def test_a_folder_with_any_name_gets_a_configuration_that_reads_back(tmp_path: Path) -> None:
    config = write_initial(tmp_path / 'we"ird\nname = 3').config
    assert read_config(config).listen == Config().listen


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    write_initial(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="is there already"):
        write_initial(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_initial(tmp_path / "file" / "folder")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("colour = 1", "colour"),
        ("queue = 0", r"\$\.queue"),
        ("threads = 'two'", r"\$\.threads"),
        ("drain_s = -1.0", r"\$\.drain_s"),
        ("node = 'a/b'", r"\$\.node"),
        ('node = "a\\n"', r"\$\.node"),
        ('node = "a\\u0000"', r"\$\.node"),
        ('node = "a\\u001bb"', r"\$\.node"),
        ("store = ''", r"\$\.store"),
        ('store = "a\\u0000b"', r"\$\.store"),
        ('trusted = ["a\\u0000b"]', r"\$\.trusted\[0\]|\$\.trusted\[\.\.\.\]"),
        ('tls = { certificate = "a\\u0000", key = "b" }', r"\$\.tls\.certificate"),
        ('[driver]\nname = "a\\u0000"', r"\$\.driver\.name"),
        ('[driver]\noptions = { profile = "a\\u0000" }', r"\$\.driver\.options"),
        ("[driver]\nkind = 'twin'", r"kind.*\$\.driver"),
        ("[tls]\nkey = 'k'", r"certificate.*\$\.tls"),
        ("queue = ", "not TOML"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_config(written(tmp_path, text))


@pytest.mark.parametrize("field", ["host", "username", "password_file", "ca_file", "outbox"])
def test_a_nul_in_what_telemetry_is_told_is_refused(tmp_path: Path, field: str) -> None:
    config = read_config(
        written(
            tmp_path,
            f'telemetry = {{ "host" = "broker", "{field}" = "a\\u0000" }}'.replace(
                '"host" = "broker", "host"', '"host"'
            ),
        )
    )
    with pytest.raises(ConfigError, match=rf"telemetry: .*\$\.{field}"):
        check(config)


@pytest.mark.parametrize("listen", ["127.0.0.1\n:80", "a b:80", "a\0:80", "unix:a\0b", f"unix:/{'a' * 107}"])
def test_an_address_that_nothing_can_listen_on_is_refused(listen: str) -> None:
    with pytest.raises(ConfigError, match=r"^listen: expected"):
        check(Config(listen=listen))


def test_paths_are_relative_to_the_files_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_text("")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    long = ":".join(["SOUR1:FREQ 1000"] * 40)
    text = f"""
    listen = "unix:agent.sock"
    [driver]
    name = "remote"
    options = {{ profile = "mine.toml", other = "pcm-hermes", prepare = "{long}", address = "unix:/run/x", empty = "" }}
    [black_box]
    name = "spice"
    options = {{ netlist = "mine.toml", inputs = 2 }}
    """
    config = read_config(written(tmp_path, text))
    profile = str(tmp_path / "mine.toml")
    assert config.listen == f"unix:{tmp_path / 'agent.sock'}"
    assert config.driver.options == {
        "profile": profile,
        "other": "pcm-hermes",
        "prepare": long,
        "address": "unix:/run/x",
        "empty": "",
    }
    assert config.black_box is not None
    assert config.black_box.options == {"netlist": profile, "inputs": 2}


def test_a_configuration_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read"):
        read_config(tmp_path / "none.toml")


@pytest.mark.parametrize("listen", ["8500", "host:", ":80", "host:port", "host:65536", "host:²"])
def test_an_address_is_host_and_port(listen: str) -> None:
    with pytest.raises(ConfigError, match="listen: expected HOST:PORT"):
        parse_address(listen, "listen")


TLS = Tls("a.crt", "a.key", "ca.crt")


@pytest.mark.parametrize(
    ("config", "remedy"),
    [
        (Config(listen="0.0.0.0:8500"), "certificates"),
        (Config(listen="0.0.0.0:8500", tls=Tls("a.crt", "a.key")), "certificates"),
        (Config(listen="0.0.0.0:8500", tls=TLS, insecure=True), "--insecure"),
        (Config(listen="[::]:8500", insecure=True), "127.0.0.1"),
        (Config(listen="edge.example:8500"), "127.0.0.1"),
    ],
)
def test_beyond_loopback_nobody_is_let_in_without_a_certificate(config: Config, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(config)
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    "config",
    [
        Config(listen="127.0.0.1:1", insecure=True),
        Config(listen="[::1]:1", insecure=True),
        Config(listen="localhost:1"),
        Config(listen="0.0.0.0:1", tls=TLS),
    ],
)
def test_what_is_safe_is_accepted(config: Config) -> None:
    check(config)


@pytest.mark.parametrize(
    ("table", "kind"),
    [({"host": "b", "colour": 1}, ConfigError), ({}, ConfigError), ({"host": "b", "port": 0}, TelemetryConfigError)],
)
def test_a_wrong_telemetry_table_is_refused_at_the_start(table: dict[str, object], kind: type[Exception]) -> None:
    with pytest.raises(kind, match="telemetry"):
        check(Config(telemetry=table))


def test_options_have_the_last_word(tmp_path: Path) -> None:
    path = written(tmp_path, "node = 'a'\n[driver]\nname = 'twin'\n[driver.options]\nprofile = 'ideal'\nseed = 3")
    options = Options(
        listen="127.0.0.1:1",
        store="s",
        insecure=True,
        trusted=["k"],
        driver_options={"seed": "5"},
        broker="b:1",
        node="n",
    )
    config = with_options(read_config(path), options)
    assert (config.node, config.listen, config.store, config.insecure) == ("n", "127.0.0.1:1", "s", True)
    assert config.trusted == ("k",)
    assert config.driver.words() == {"profile": "ideal", "seed": "5"}
    telemetry = config.telemetry_config()
    assert (telemetry.host, telemetry.port, telemetry.node) == ("b", 1, "n")


def test_no_options_leave_what_the_file_says(tmp_path: Path) -> None:
    config = with_options(read_config(written(tmp_path, "queue = 7")), Options())
    assert config.queue == 7
    assert config.telemetry_config() is None
    assert config.driver.words() == {"profile": "pcm-hermes", "seed": "0"}


def test_another_driver_does_not_get_the_options_of_the_first(tmp_path: Path) -> None:
    path = written(tmp_path, "[driver.options]\nprofile = 'ideal'")
    config = with_options(read_config(path), Options(driver="chip", driver_options={"port": "x"}))
    assert config.driver.words() == {"port": "x"}


@pytest.mark.parametrize("options", [Options(node="a/b"), Options(broker="nowhere"), Options(listen="x")])
def test_a_wrong_option_is_refused(options: Options) -> None:
    with pytest.raises(ConfigError):
        check(with_options(Config(), options))


def test_an_unknown_driver_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no driver 'chip'; known: .*twin"):
        find_driver("chip")
    assert find_driver("twin")({"profile": "ideal"}).describe().simulated


def test_a_driver_that_cannot_be_imported_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    broken = [EntryPoint("chip", "no_such_module:connect", "hyle.drivers")]
    monkeypatch.setattr("hyle_agent.drivers.entry_points", lambda group: broken)
    with pytest.raises(ConfigError, match="no_such_module"):
        find_driver("chip")
    twice = [*broken, EntryPoint("chip", "other:connect", "hyle.drivers")]
    monkeypatch.setattr("hyle_agent.drivers.entry_points", lambda group: twice)
    with pytest.raises(ConfigError, match="is both"):
        find_driver("chip")


def test_a_trusted_key_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trusted\[0\]: .*none\.pub"):
        read_keys([str(tmp_path / "none.pub")])
