"""Where webhooks may go: what the operator lists and nothing that only looks like it."""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from innkeeper.core.errors import Invalid, SetupError
from innkeeper.webhooks.senders import HttpSender

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""As the machine may be busy."""
LIST = (
    "allowed.example",
    "ports.example:8443",
    "http://plain.example",
    "http://plain.example:8080",
    "*.wide.example",
    "my_service",
    "xn--bcher-kva.example",
    "localhost",
    "127.0.0.1:9000",
    "[::1]:9000",
    "http://10.0.0.5",
)
ALLOWED = (
    "https://allowed.example",
    "https://allowed.example/",
    "https://allowed.example/hooks/a%20b;c=1?x=1&y=[]".replace("[]", "%5B%5D"),
    "https://allowed.example?x=a@b",
    "https://allowed.example/a@b:c",
    "HTTPS://Allowed.EXAMPLE/Hook",
    "https://allowed.example:443/",
    "https://allowed.example:0443/",
    "https://ports.example:8443/hook",
    "http://plain.example/hook",
    "http://plain.example:80/hook",
    "http://plain.example:8080/hook",
    "https://a.wide.example/hook",
    "https://a.b.wide.example/hook",
    "https://my_service/hook",
    "https://xn--bcher-kva.example/hook",
    "http://localhost/hook",
    "https://localhost/hook",
    "http://127.0.0.1:9000/hook",
    "http://[::1]:9000/hook",
    "http://[0:0:0:0:0:0:0:1]:9000/hook",
    "http://10.0.0.5/hook",
)
NOT_LISTED = (
    "https://evil.example/",
    "https://allowed.example.evil/",
    "https://evil-allowed.example/",
    "https://sub.allowed.example/",
    "https://allowed.example:8443/",
    "https://allowed.example:80/",
    "http://allowed.example/",
    "http://allowed.example:443/",
    "https://ports.example/",
    "https://ports.example:443/",
    "http://ports.example:8443/",
    "https://plain.example/",
    "https://wide.example/",
    "https://evilwide.example/",
    "http://a.wide.example/",
    "https://a.wide.example:8443/",
    "http://my_service/",
    "http://localhost:8000/",
    "http://127.0.0.1/",
    "http://127.0.0.2:9000/",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]:9000/",
    "http://[::2]:9000/",
    "https://10.0.0.5/",
    "http://10.0.0.5.nip.example/",
    "http://169.254.169.254/latest/meta-data/",
)
NO_PLAIN_URL = (
    "",
    "allowed.example",
    "//allowed.example/",
    "https:allowed.example/",
    "https:/allowed.example/",
    "https:///allowed.example/",
    "ftp://allowed.example/",
    "file:///etc/passwd",
    "gopher://allowed.example/",
    "javascript://allowed.example/",
    "http+unix://allowed.example/",
    " https://allowed.example/",
    "https://allowed.example/ ",
    "https://allowed.example/a b",
    "https://allowed.example/\t",
    "https://allow\ted.example/",
    "https://allowed.example\n/",
    "https://allowed.example/\r\nhost: evil.example",
    "https://allowed.example/\x00",
    "https://allowed.example/\x7f",
    "https://allowed.example@evil.example/",
    "https://user@allowed.example/",
    "https://user:password@allowed.example/",
    "https://:@allowed.example/",
    "https://@allowed.example/",
    "https://evil.example\\@allowed.example/",
    "https://allowed.example\\@evil.example/",
    "https://allowed.example\\.evil.example/",
    "https:\\\\allowed.example\\",
    "https://evil.example#@allowed.example/",
    "https://allowed.example/#part",
    "https://allowed.example#",
    "https://allowed.example./",
    "https://allowed.example..evil.example/",
    "https://.allowed.example/",
    "https://allowed%2eexample/",
    "https://allowed.example%00.evil.example/",
    "https://allowed.example%40evil.example/",
    "https://bücher.example/",
    "https://allowed。example/",
    "https://ⓐllowed.example/",
    "https://allowed.example/ü",
    "httpſ://allowed.example/",
    "https://\u212aelvin.wide.example/",
    "https://allowed.example/%",
    "https://allowed.example/%zz",
    "https://allowed.example:/",
    "https://allowed.example:0/",
    "https://allowed.example:65979/",
    "https://allowed.example:-443/",
    "https://allowed.example:+443/",
    "https://allowed.example:٤٤٣/",
    "https://allowed.example:443:8443/",
    "https://allowed.example,evil.example/",
    "https://[allowed.example]/",
    "http://[::1%25lo]:9000/",
    "http://[::1%lo]:9000/",
    "http://[::1:9000/",
    "http://::1:9000/",
    "http://127.1:9000/",
    "http://127.0.0.01:9000/",
    "http://0x7f000001:9000/",
    "http://0x7f.0.0.1:9000/",
    "http://2130706433:9000/",
    "http://127.0.0.0x1:9000/",
    "https://" + "a" * 64 + ".wide.example/",
    "https://\ud800.example/",
)


@pytest.fixture(scope="module")
def sender() -> HttpSender:
    return HttpSender(LIST)


@pytest.mark.parametrize("url", ALLOWED)
def test_what_the_list_names_is_allowed(sender: HttpSender, url: str) -> None:
    sender.check(url)


@pytest.mark.parametrize("url", NOT_LISTED)
def test_another_scheme_host_or_port_is_refused(sender: HttpSender, url: str) -> None:
    with pytest.raises(Invalid, match=r"webhook: its scheme, host and port .* webhook_allowed_hosts") as refused:
        sender.check(url)
    assert refused.value.param == "webhook"


@pytest.mark.parametrize("url", NO_PLAIN_URL, ids=ascii)
def test_what_parsers_might_disagree_on_is_refused(sender: HttpSender, url: str) -> None:
    with pytest.raises(Invalid, match="webhook: give an absolute http or https URL") as refused:
        sender.check(url)
    assert not url.strip() or url not in str(refused.value)


def test_long_urls_are_refused(sender: HttpSender) -> None:
    start = "https://allowed.example/"
    sender.check(start.ljust(2048, "x"))
    with pytest.raises(Invalid, match="at most 2048 characters"):
        sender.check(start.ljust(2049, "x"))


def test_without_a_list_webhooks_are_off_and_the_setting_is_named() -> None:
    with pytest.raises(Invalid, match=r"webhooks are off .* webhook_allowed_hosts \(WEBHOOK_ALLOWED_HOSTS\)"):
        HttpSender(()).check("https://allowed.example/")


@pytest.mark.parametrize(
    "entry",
    [
        "*",
        "*.",
        "*example.com",
        "a.*.example",
        "**.example.com",
        "*.0.0.1",
        "*.[::1]",
        "example.com/hook",
        "example.com:",
        "example.com:0",
        "example.com:99999",
        "example.com.",
        "user@example.com",
        "ftp://example.com",
        "https://",
        "::1",
        "[::1",
        "127.1",
        "1.2.3.4/8",
        "bücher.example",
        "",
    ],
)
def test_an_entry_that_cannot_be_is_an_error_at_start_that_names_it(entry: str) -> None:
    with pytest.raises(SetupError) as refused:
        HttpSender(["example.com", entry])
    assert refused.value.message.startswith(f"webhook_allowed_hosts: {entry!r} is not a host.")


PIECES = (
    *(
        "http",
        "https",
        "://",
        ":",
        "/",
        "//",
        "\\",
        "@",
        "#",
        "?",
        ".",
        "%",
        "%2e",
        "%40",
        "[",
        "]",
        "::1",
        "localhost",
    ),
    *("127.0.0.1", "allowed.example", "evil.example", "443", "80", "9000", "\t", "\n", " ", "*", "a", "ſ", "。", ";"),
)


@UNHURRIED
@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join) | st.text(max_size=20), st.booleans())
def test_every_parser_sees_the_same_host_in_a_url_that_is_allowed(text: str, is_begun: bool) -> None:
    url = f"https://allowed.example{text}" if is_begun else text
    try:
        HttpSender(LIST).check(url)
    except Invalid:
        return
    sent, split = httpx2.URL(url), urlsplit(url)
    assert sent.raw_host.decode() == split.hostname
    assert split.hostname in ("allowed.example", "localhost", "127.0.0.1", "::1")
    assert (sent.port, sent.userinfo, sent.fragment) == (split.port if split.port not in (80, 443) else None, b"", "")
