"""The sender of webhooks against real receivers, good ones and bad ones."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from innkeeper.ports.senders import DeliveryFailed
from innkeeper.webhooks.senders import HttpSender
from tests.support import receivers
from tests.support.receivers import Answer, Receiver, running_receiver, status


@pytest.fixture
async def sender(receiver: Receiver) -> AsyncIterator[HttpSender]:
    opened = HttpSender([receiver.host], seconds=5)
    yield opened
    await opened.close()


@pytest.mark.parametrize("code", [200, 201, 202, 204, 299])
async def test_body_and_headers_arrive_and_any_2xx_is_a_receipt(
    receiver: Receiver, sender: HttpSender, code: int
) -> None:
    receiver.answers.append(status(code, b"" if code == 204 else b"thanks"))
    await sender.send(f"{receiver.url}/a%20b?key=1&x=%C3%BC", b'{"a": 1}', {"webhook-id": "msg_1"})
    request = await receiver.next()
    assert (request.target, request.body) == ("/hook/a%20b?key=1&x=%C3%BC", b'{"a": 1}')
    assert dict(request.headers) == {
        "host": receiver.host,
        "content-length": "8",
        "webhook-id": "msg_1",
        "user-agent": "Innkeeper",
        "accept": "*/*",
        "accept-encoding": "identity",
    }


@pytest.mark.parametrize("code", [300, 400, 401, 404, 410, 429, 500, 503, 599])
async def test_any_other_status_is_a_failure_that_names_it(receiver: Receiver, sender: HttpSender, code: int) -> None:
    receiver.answers.append(status(code))
    with pytest.raises(DeliveryFailed, match=f"answered with {code}"):
        await sender.send(receiver.url, b"{}", {})


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_even_to_an_allowed_host(
    receiver: Receiver, sender: HttpSender, code: int
) -> None:
    receiver.answers.append(status(code, headers={"location": f"{receiver.url}/elsewhere"}))
    with pytest.raises(DeliveryFailed, match=f"answered with {code}"):
        await sender.send(receiver.url, b"{}", {})
    assert [request.target for request in receiver.requests] == ["/hook"]


async def test_a_url_that_is_not_allowed_any_more_is_a_failure_and_nobody_is_asked(receiver: Receiver) -> None:
    for allowed in ([], ["other.example"]):
        sender = HttpSender(allowed)
        with pytest.raises(DeliveryFailed, match="webhook_allowed_hosts"):
            await sender.send(receiver.url, b"{}", {})
        await sender.close()
    assert receiver.connections == 0


@pytest.mark.parametrize("answer", [receivers.silence, receivers.endless_head], ids=["silence", "endless head"])
async def test_a_receiver_that_keeps_us_waiting_is_left_when_the_time_is_over(
    receiver: Receiver, answer: Answer
) -> None:
    sender = HttpSender([receiver.host], seconds=0.3)
    receiver.answers.append(answer)
    with pytest.raises(DeliveryFailed):
        async with asyncio.timeout(30):
            await sender.send(receiver.url, b"{}", {})
    await sender.close()


@pytest.mark.parametrize("answer", [receivers.hang_up, receivers.reset, receivers.nonsense, status(101)])
async def test_a_receiver_that_breaks_off_is_a_failure_and_the_next_delivery_arrives(
    receiver: Receiver, sender: HttpSender, answer: Answer
) -> None:
    receiver.answers.append(answer)
    with pytest.raises(DeliveryFailed, match="Error"):
        await sender.send(receiver.url, b"{}", {})
    await sender.send(receiver.url, b"{}", {})
    assert len(receiver.requests) == 2


async def test_nobody_there_is_a_failure(receiver: Receiver, sender: HttpSender) -> None:
    async with running_receiver() as gone:
        pass
    sender = HttpSender([gone.host])
    with pytest.raises(DeliveryFailed, match="ConnectError"):
        await sender.send(gone.url, b"{}", {})
    await sender.close()


async def test_of_a_huge_body_no_more_is_read_than_its_beginning(receiver: Receiver, sender: HttpSender) -> None:
    taken, refused = receivers.EndlessBody(200), receivers.EndlessBody(500)
    receiver.answers += [taken, refused]
    await sender.send(receiver.url, b"{}", {})
    async with asyncio.timeout(30):
        await receiver.hung_up.wait()
    with pytest.raises(DeliveryFailed, match="answered with 500"):
        await sender.send(receiver.url, b"{}", {})
    assert taken.written + refused.written < 32 * 1024 * 1024, "the rest lay in the sockets' buffers"


@pytest.mark.parametrize("answer", [receivers.body_that_never_comes, receivers.cut_body])
async def test_a_status_is_a_receipt_whatever_becomes_of_its_body(
    receiver: Receiver, sender: HttpSender, answer: Answer
) -> None:
    receiver.answers.append(answer)
    async with asyncio.timeout(30):
        await sender.send(receiver.url, b"{}", {})


async def test_connections_are_used_again_and_closed_at_the_end(receiver: Receiver, sender: HttpSender) -> None:
    for _ in range(5):
        receiver.answers.append(status(200, b"thanks"))
        await sender.send(receiver.url, b"{}", {})
    assert receiver.connections == 1
    await sender.close()
    async with asyncio.timeout(30):
        await receiver.hung_up.wait()
    await sender.close()
    with pytest.raises(DeliveryFailed, match="stopping"):
        await sender.send(receiver.url, b"{}", {})


async def test_cookies_of_one_answer_are_not_sent_with_the_next_request(receiver: Receiver, sender: HttpSender) -> None:
    receiver.answers.append(status(200, headers={"set-cookie": "a=b; Path=/"}))
    for _ in range(2):
        await sender.send(receiver.url, b"{}", {})
    assert all("cookie" not in request.headers for request in receiver.requests)


async def test_proxies_of_the_environment_are_not_used(
    receiver: Receiver, sender: HttpSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_receiver() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{proxy.host}")
        await sender.send(receiver.url, b"{}", {})
        assert (proxy.connections, receiver.connections) == (0, 1)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of our own for `localhost`, with its key in the same file."""
    file = tmp_path_factory.mktemp("tls") / "localhost.pem"
    request = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    try:
        subprocess.run([*request, *names, "-keyout", file, "-out", f"{file}.crt"], check=True, capture_output=True)
    except FileNotFoundError:
        if os.environ.get("CI"):
            raise
        pytest.skip("A service is missing: openssl, which makes a certificate.")
    file.write_text(file.read_text() + Path(f"{file}.crt").read_text())
    return file


async def test_certificates_are_checked_against_the_system_or_what_ssl_cert_file_names(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    async with running_receiver(tls) as receiver:
        hosts = [f"https://localhost:{receiver.port}", f"https://{receiver.host}"]
        stranger = HttpSender(hosts)
        with pytest.raises(DeliveryFailed, match="CERTIFICATE_VERIFY_FAILED"):
            await stranger.send(f"{hosts[0]}/hook", b"{}", {})
        monkeypatch.setenv("SSL_CERT_FILE", f"{certificate}.crt")
        friend = HttpSender(hosts)
        with pytest.raises(DeliveryFailed, match=r"CERTIFICATE_VERIFY_FAILED.*127\.0\.0\.1"):
            await friend.send(f"{hosts[1]}/hook", b"{}", {})
        assert receiver.requests == []
        await friend.send(f"{hosts[0]}/hook", b"{}", {})
        assert len(receiver.requests) == 1
        for sender in (stranger, friend):
            await sender.close()


async def test_what_is_secret_in_a_url_stays_out_of_the_log(
    receiver: Receiver, sender: HttpSender, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.answers += [status(200), status(500)]
    url = f"{receiver.url}/T0-path-secret?token=T0-query-secret"
    await sender.send(url, b'{"T0": "body-secret"}', {"webhook-signature": "v1,T0-signature"})
    with pytest.raises(DeliveryFailed) as failed:
        await sender.send(url, b"{}", {})
    assert "T0" not in caplog.text + str(failed.value)
    assert "httpcore2" in caplog.text, "the transport's own log was looked at, too"
