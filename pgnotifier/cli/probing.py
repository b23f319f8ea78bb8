"""Ask a listener's health port, for `pgnotifier health`."""

from http import HTTPStatus

from pgnotifier._health.health_server import HOST

TIMEOUT = 10.0
"""Seconds for which `probe` waits for an answer."""


def probe(port: int, path: str = "/readyz", host: str = HOST) -> tuple[bool, str]:
    """Ask a health server; return whether it answered 200, and the answer or the error.

    Args:
        port: Its port.
        path: `/healthz` or `/readyz`.
        host: Its address.
    """
    import http.client  # it takes memory, and most commands don't need it

    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        said = response.read().decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as exc:
        why = (isinstance(exc, OSError) and exc.strerror) or exc
        return False, f"no answer from port {port} of {host}: {why}"
    finally:
        connection.close()
    return response.status == HTTPStatus.OK, said
