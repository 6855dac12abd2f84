"""Raw frames of HTTP/2: gRPC clients that do what no library does."""

import socket
import struct

METHOD = "/tensorflow.serving.PredictionService/Predict"
DATA, HEADERS, RESET, SETTINGS, PING, WINDOW = 0, 1, 3, 4, 6, 8
ACKNOWLEDGED = END_OF_STREAM = 1
END_OF_HEADERS = 4


def frame(kind, flags, stream, payload=b""):
    size = struct.pack(">I", len(payload))[1:]
    return size + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def opening(**settings):
    """The first bytes of a connection; a setting is a number and its value."""
    pairs = [struct.pack(">HI", int(key[1:]), n) for key, n in settings.items()]
    magic = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    return magic + frame(SETTINGS, 0, 0, b"".join(pairs))


def headers(stream, flags=END_OF_HEADERS, method=METHOD):
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": method,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    block = b"".join(
        b"\x00" + bytes([len(part[0])]) + part[0] + bytes([len(part[1])]) + part[1]
        for part in ([text.encode() for text in pair] for pair in fields.items())
    )
    return frame(HEADERS, flags, stream, block)


def message(stream, data, *, length=None, flags=0):
    """A message, or the start of one of another length."""
    length = len(data) if length is None else length
    return frame(DATA, flags, stream, b"\x00" + struct.pack(">I", length) + data)


def half_request(stream, length=1000):
    return headers(stream) + message(stream, b"\n" * 10, length=length)


def connected(port, **settings):
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(opening(**settings) + frame(SETTINGS, ACKNOWLEDGED, 0))
    return connection


def frames(connection):
    """Yield what arrives, `(kind, stream, payload)`, and answer pings."""
    waiting = b""
    while part := connection.recv(1 << 16):
        waiting += part
        while len(waiting) >= 9:
            size = int.from_bytes(waiting[:3], "big")
            if len(waiting) < 9 + size:
                break
            kind, flags, stream = waiting[3], waiting[4], waiting[5:9]
            payload, waiting = waiting[9 : 9 + size], waiting[9 + size :]
            if kind == PING and not flags:
                connection.sendall(frame(PING, ACKNOWLEDGED, 0, payload))
            yield kind, int.from_bytes(stream, "big"), payload
