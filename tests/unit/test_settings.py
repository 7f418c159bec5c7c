"""What the environment may say: secrets and where they are kept, and where the gateway may stand."""

import ipaddress
from collections.abc import Mapping
from pathlib import Path

import pytest

from listener.accounts import access
from listener.errors import ListenerError, UsageError
from listener.rules import Account
from listener.settings import Settings, is_public, read_settings, secret

TOKEN = "canary-token"
PASSWORD = "canary-pass"


def account(name: str = "CARESOFT_TOKEN") -> Account:
    return Account.model_validate({"domain": "acme", "token": f"${{{name}}}", "service_id": 12})


def refused(environ: Mapping[str, str]) -> str:
    with pytest.raises(UsageError) as caught:
        read_settings(environ)
    return str(caught.value)


def test_a_secret_is_in_a_variable_a_file_or_a_credential(tmp_path: Path) -> None:
    file, credentials = tmp_path / "file", tmp_path / "credentials"
    credentials.mkdir()
    file.write_text(f"{TOKEN}-2\n")
    (credentials / "CARESOFT_TOKEN").write_text(f"{TOKEN}-3\n")
    environ = {"CREDENTIALS_DIRECTORY": str(credentials)}
    assert secret(environ, "OTHER") is None
    assert access("main", account(), environ).token == f"{TOKEN}-3"
    environ["CARESOFT_TOKEN_FILE"] = str(file)
    assert access("main", account(), environ).token == f"{TOKEN}-2"
    environ["CARESOFT_TOKEN"] = f"{TOKEN}-1"
    assert access("main", account(), environ).token == f"{TOKEN}-1"


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"canary token", b"canary\ntoken", b"canary\xff", "canary mã".encode()]
)
def test_a_token_that_is_none_is_refused_unseen(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(ListenerError) as caught:
        access("main", account(), {"CARESOFT_TOKEN_FILE": str(file)})
    assert "CARESOFT_TOKEN" in str(caught.value)
    assert "file" in str(caught.value).casefold(), "where it was looked for"
    assert "canary" not in str(caught.value)


def test_a_line_end_after_a_secret_is_none_of_it() -> None:
    """An `env_file` with Windows' line ends leaves one in each variable."""
    settings = read_settings({"LISTENER_ADMIN_TOKEN": "letmein\r", "LISTENER_VIEW_TOKEN": " \n"})
    assert (settings.admin_token, settings.view_token) == ("letmein", None)
    assert access("main", account(), {"CARESOFT_TOKEN": "secret\r\n"}).token == "secret"


def test_a_byte_order_mark_before_a_secret_is_none_of_it(tmp_path: Path) -> None:
    """Windows' editors begin a file with one, which nobody sees, and nobody can type at the page."""
    file, url = tmp_path / "token", tmp_path / "url"
    file.write_bytes(b"\xef\xbb\xbfsecret\r\n")
    url.write_bytes(b"\xef\xbb\xbfpostgresql://db/erp\r\n")
    environ = {"CARESOFT_TOKEN_FILE": str(file), "LISTENER_DATABASE_URL_FILE": str(url)}
    environ["LISTENER_ADMIN_TOKEN_FILE"] = str(file)
    settings = read_settings(environ)
    assert (settings.database_url, settings.admin_token) == ("postgresql://db/erp", "secret")
    assert (settings.fresh("database_url"), settings.fresh("admin_token")) == ("postgresql://db/erp", "secret")
    assert access("main", account(), environ).token == "secret"
    by_file = Account.model_validate({"domain": "acme", "token_file": str(file), "service_id": 12})
    assert access("main", by_file).token == "secret"


def test_a_secret_out_of_a_file_is_read_anew(tmp_path: Path) -> None:
    file, url = tmp_path / "token", tmp_path / "url"
    file.write_text("first")
    url.write_text("postgresql://a:first@db/erp")
    environ = {"CARESOFT_TOKEN_FILE": str(file), "LISTENER_DATABASE_URL_FILE": str(url)}
    environ["LISTENER_ADMIN_TOKEN_FILE"] = str(file)
    settings = read_settings(environ)
    assert (settings.database_url, settings.admin_token) == ("postgresql://a:first@db/erp", "first")
    file.write_text("second")
    url.write_text("postgresql://a:second@db/erp")
    assert access("main", account(), environ).token == "second"
    assert settings.fresh("admin_token") == "second"
    assert settings.fresh("database_url") == "postgresql://a:second@db/erp"
    assert settings.fresh("view_token") is None
    # While it is being replaced, or gone, the last known one holds.
    url.unlink()
    file.write_text("")
    assert settings.fresh("database_url") == "postgresql://a:first@db/erp"
    assert settings.fresh("admin_token") == "first"


def test_no_secret_is_in_what_settings_look_like() -> None:
    settings = read_settings(
        {
            "LISTENER_DATABASE_URL": f"postgresql://a:{PASSWORD}@db/erp",
            "LISTENER_ADMIN_TOKEN": TOKEN,
            "LISTENER_VIEW_TOKEN": TOKEN,
        }
    )
    assert "canary" not in repr(settings)
    assert PASSWORD in settings.database_url


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://a:{PASSWORD}@{PASSWORD}@db/erp",
        f"postgresql://a:{PASSWORD}/{PASSWORD}@db/erp",
        f"postgresql://a:{PASSWORD}%zz@db/erp",
        f"postgres//a:{PASSWORD}@db/erp",
        f"host=db password='{PASSWORD}",
        f"host=db {PASSWORD}",
        f"host=db pasword={PASSWORD}",
    ],
)
def test_a_connection_string_that_is_none_is_refused_unseen(url: str) -> None:
    said = refused({"LISTENER_DATABASE_URL": url})
    assert said.startswith("LISTENER_DATABASE_URL: ")
    assert "canary" not in said


def test_a_file_that_cannot_be_read_is_named_by_its_variable(tmp_path: Path) -> None:
    said = refused({"LISTENER_DATABASE_URL_FILE": str(tmp_path / "none"), "LISTENER_VIEW_TOKEN_FILE": str(tmp_path)})
    assert "LISTENER_DATABASE_URL_FILE: cannot read that file (FileNotFoundError)" in said
    assert "LISTENER_VIEW_TOKEN_FILE: cannot read that file (IsADirectoryError)" in said


@pytest.mark.parametrize(
    "url",
    [
        "http://api.caresoft.vn",
        "http://10.0.0.5",
        "https://10.0.0.5",
        "https://172.16.0.1:8443",
        "https://192.168.1.1",
        "https://169.254.169.254/latest",
        "https://100.64.0.1",
        "https://0.0.0.0",
        "https://[fd00::1]",
        "https://[fe80::1]",
        "https://[::ffff:10.0.0.5]",
        "https://[::ffff:169.254.169.254]",
        "https://224.0.0.1",
        "https://2130706433",
        "https://0x7f000001",
        "https://0177.0.0.1",
        "https://127.1",
        "https://127.0.0.1.",
        # digits and dots that who connects takes for these
        "https://１０.0.0.5",
        "https://①27.0.0.1",
        "https://169。254。169。254",
        "https://10.0.0.5%2e",
        "https://user@api.caresoft.vn",
        "https://user:canary-pass@api.caresoft.vn",
        "https://api.caresoft.vn@evil.example",
        "https://api.caresoft.vn?x=1",
        "https://api.caresoft.vn#x",
        "https://[::1",
        "https://api.caresoft.vn:99999",
        "file:///etc/passwd",
        "gopher://api.caresoft.vn",
        "ftp://api.caresoft.vn",
        "api.caresoft.vn",
        "https://",
    ],
)
def test_f77_the_gateway_stands_nowhere_else(url: str) -> None:
    """F77: nothing is connected to, since nothing starts."""
    said = refused({"LISTENER_CARESOFT_URL": url})
    assert said.startswith("LISTENER_CARESOFT_URL: ")
    assert "canary" not in said


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("https://api.caresoft.vn", ""),
        ("https://api.caresoft.vn:8443/base", ""),
        ("https://203.113.0.1", ""),
        ("http://127.0.0.1:8090", ""),
        ("http://[::1]:8090", ""),
        ("http://localhost:8090", ""),
        ("https://10.0.0.5", "on"),
        ("https://[fd00::1]", "1"),
    ],
)
def test_f77_where_it_may_stand(url: str, private: str) -> None:
    settings = read_settings({"LISTENER_CARESOFT_URL": url, "LISTENER_CARESOFT_PRIVATE": private})
    assert settings.caresoft_url == url


@pytest.mark.parametrize("seconds", ["soon", "nan", "0", "301", "canary-pass"])
def test_a_time_out_that_is_none_is_told_without_it(seconds: str) -> None:
    said = refused({"LISTENER_HTTP_TIMEOUT": seconds})
    assert said == "LISTENER_HTTP_TIMEOUT: use seconds between 0.1 and 300"


def test_plain_http_is_for_this_machine_alone_even_where_private_addresses_are_meant() -> None:
    environ = {"LISTENER_CARESOFT_URL": "http://10.0.0.5", "LISTENER_CARESOFT_PRIVATE": "1"}
    assert "plain http" in refused(environ)


@pytest.mark.parametrize("address", ["8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8"])
def test_addresses_of_the_internet(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


def test_the_default_gateway_is_caresofts_own() -> None:
    assert Settings().caresoft_url == read_settings({}).caresoft_url == "https://api.caresoft.vn"
    assert Settings().caresoft_spare == "https://api2.caresoft.vn"
    assert Settings(caresoft_url="https://proxy.example").caresoft_spare is None
