"""A client of the WebSocket carrier that speaks atls-mux/1: ssl.MemoryBIO for the
inner TLS, a WebSocket and a yamux of its own, nothing but the standard library.
It was written from docs/PROTOCOL.md, section 14.

    python3 mux.py URL ROGUE-URL CA CERT KEY [PROXY]

It refuses the server at ROGUE-URL. With the server at URL it makes a session,
says "ready", acks a signal called display, serves the service echo until a
stream of 1 MiB has ended, sends 1 MiB to the server's service echo, and exits 0
when the same comes back.
"""

import base64, hashlib, json, os, socket, ssl, struct, sys
from urllib.parse import urlsplit

BLOB = 1 << 20
WINDOW = 256 << 10
DATA, UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8


class WebSocket:
    """The carrier: a stream of bytes in binary messages."""

    def __init__(self, url, proxy):
        u = urlsplit(url)
        host, port = u.hostname, u.port or 443
        to = (urlsplit(proxy).hostname, urlsplit(proxy).port) if proxy else (host, port)
        s = socket.create_connection(to, timeout=40)
        if proxy:
            s.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
            status = self.head(s)[0]
            if " 200" not in status:
                raise OSError(f"proxy: {status}")
        # The outer TLS is transport: whoever answers may. The inner one decides.
        outer = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        outer.check_hostname, outer.verify_mode = False, ssl.CERT_NONE
        outer.set_alpn_protocols(["http/1.1"])
        self.s = outer.wrap_socket(s, server_hostname=host)
        key = base64.b64encode(os.urandom(16)).decode()
        self.s.sendall((f"GET {u.path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: atls.v1\r\n\r\n").encode())
        lines = self.head(self.s)
        if " 101 " not in lines[0]:
            raise OSError(f"carrier: answered {lines[0]}")
        h = {k.lower(): v.strip() for k, _, v in (l.partition(":") for l in lines[1:])}
        accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
        if h.get("sec-websocket-accept") != accept or h.get("sec-websocket-protocol") != "atls.v1":
            raise OSError("carrier: the 101 is not that of an ATLS server")

    @staticmethod
    def head(s):
        b = b""
        while not b.endswith(b"\r\n\r\n"):
            c = s.recv(1)
            if not c:
                raise EOFError("carrier: ended before an answer")
            b += c
        return b.decode("latin-1").split("\r\n")

    def exactly(self, n):
        b = bytearray()
        while len(b) < n:
            c = self.s.recv(n - len(b))
            if not c:
                raise EOFError("carrier: ended without a close frame")
            b += c
        return bytes(b)

    def recv(self):
        """The next bytes; none at the end."""
        while True:
            first, second = self.exactly(2)
            n = second & 127
            if n == 126:
                n, = struct.unpack(">H", self.exactly(2))
            elif n == 127:
                n, = struct.unpack(">Q", self.exactly(8))
            if n > 128 << 10 or second & 128 or first & 0x70:
                raise OSError("carrier: a frame that is not allowed")
            body, kind = self.exactly(n), first & 15
            if kind == 9:
                self.frame(10, body)
            elif kind == 8:
                return b""
            elif kind in (0, 2) and body:  # where a message ends means nothing
                return body
            elif kind == 1:
                raise OSError("carrier: a text message")

    def frame(self, kind, body):
        mask, n = os.urandom(4), len(body)
        size = bytes([128 | n]) if n < 126 else struct.pack(">BH", 254, n) if n < 65536 else struct.pack(">BQ", 255, n)
        pad = (mask * (n // 4 + 1))[:n]
        masked = (int.from_bytes(body, "big") ^ int.from_bytes(pad, "big")).to_bytes(n, "big")
        self.s.sendall(bytes([128 | kind]) + size + mask + masked)

    def send(self, b):
        for i in range(0, len(b), 64 << 10):
            self.frame(2, b[i:i + (64 << 10)])

    def close(self):
        self.frame(8, struct.pack(">H", 1000))
        self.s.close()


class Inner:
    """The inner TLS connection over a carrier."""

    def __init__(self, carrier, context):
        self.carrier = carrier
        self.rx, self.tx = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.rx, self.tx, server_hostname="atls-ws")  # the name that the certificate must have
        self.buffer = b""
        self.do(self.tls.do_handshake)
        if self.tls.selected_alpn_protocol() != "atls-mux/1":
            raise OSError("the server did not select atls-mux/1")

    def flush(self):
        if self.tx.pending:
            self.carrier.send(self.tx.read())

    def do(self, f, *args):
        while True:
            try:
                r = f(*args)
                self.flush()
                return r
            except ssl.SSLWantReadError:
                self.flush()
                b = self.carrier.recv()
                self.rx.write(b) if b else self.rx.write_eof()
            except ssl.SSLError:
                self.flush()  # the alert
                raise

    def write(self, b):
        view = memoryview(b)
        while view:
            view = view[self.do(self.tls.write, view):]

    def read(self, n):
        while len(self.buffer) < n:
            b = self.do(self.tls.read, 64 << 10)
            if not b:
                raise EOFError("closed by the server")
            self.buffer += b
        b, self.buffer = self.buffer[:n], self.buffer[n:]
        return b

    def close(self):
        try:
            self.tls.unwrap()  # close_notify; the server's is not waited for
        except ssl.SSLError:
            pass
        self.flush()
        self.carrier.close()


class Stream:
    def __init__(self, number, serve):
        self.number, self.serve = number, serve
        self.window = WINDOW  # what may still be sent
        self.got = b""  # not understood yet
        self.out = bytearray()  # not sent yet
        self.read = 0  # since the last window update
        self.closing = self.closed = self.ended = False


class Session:
    """yamux, signals and the service echo, in one thread that never waits but for the peer."""

    def __init__(self, inner):
        self.inner, self.streams, self.acked, self.echoed, self.back = inner, {}, 0, 0, None
        hello = json.dumps({"version": 1, "software": "mux.py", "carrier": "websocket", "services": ["echo"]}).encode()
        inner.write(struct.pack(">I", len(hello)) + hello)
        n, = struct.unpack(">I", inner.read(4))
        if n > 16 << 10:
            raise OSError("a greeting that is too large")
        answer = json.loads(inner.read(n))
        if "ready" not in answer:
            raise OSError("refused: " + answer["refused"]["text"])
        self.ready = answer["ready"]

    def frame(self, kind, flags, stream, length, body=b""):
        self.inner.write(struct.pack(">BBHII", 0, kind, flags, stream, length) + body)

    def step(self):
        """Reads one frame and does what follows from it."""
        version, kind, flags, number, length = struct.unpack(">BBHII", self.inner.read(12))
        if version != 0 or kind > GO_AWAY:
            raise OSError("yamux: a frame that is not allowed")
        if kind == PING:
            if flags & SYN:
                self.frame(PING, ACK, 0, length)
            return
        if kind == GO_AWAY:
            return
        if flags & SYN:
            self.streams[number] = Stream(number, self.opened)
            self.frame(UPDATE, ACK, number, 0)
        body = self.inner.read(length) if kind == DATA else b""
        s = self.streams.get(number)
        if s is None:
            return  # closed by both
        if kind == UPDATE:
            s.window += length
        s.got += body
        s.read += len(body)
        if s.read >= WINDOW // 2:
            self.frame(UPDATE, 0, number, s.read)
            s.read = 0
        if flags & FIN:
            s.ended = True
        if flags & RST:
            del self.streams[number]
            raise OSError(f"stream {number} was reset")
        s.serve(s)
        self.push(s)

    def push(self, s):
        """Sends what the window allows."""
        while s.out and s.window:
            b = bytes(s.out[:min(s.window, 32 << 10)])
            del s.out[:len(b)]
            s.window -= len(b)
            self.frame(DATA, 0, s.number, len(b), b)
        if s.closing and not s.out and not s.closed:
            s.closed = True
            self.frame(UPDATE, FIN, s.number, 0)
        if s.closed and s.ended:
            self.streams.pop(s.number, None)

    def opened(self, s):
        """A stream that the server opened: version, length, name."""
        if len(s.got) < 2 or len(s.got) < 2 + s.got[1]:
            return
        name, s.got = s.got[2:2 + s.got[1]], s.got[2 + s.got[1]:]
        services = {b"signals": self.signals, b"echo": self.echo}
        if name in services:
            s.out += b"\0\0\0"
            s.serve = services[name]
            s.count = 0
            s.serve(s)
        else:
            s.out += struct.pack(">BH", 2, 0)
            s.closing = True

    def signals(self, s):
        while len(s.got) >= 5:
            kind, n = struct.unpack(">BI", s.got[:5])
            if n > 65 << 10:
                raise OSError("signals: a frame that is too large")
            if len(s.got) < 5 + n:
                break
            body, s.got = s.got[5:5 + n], s.got[5 + n:]
            if kind == 3:
                raise OSError("bye: " + body[3:].decode())
            if kind != 1:
                continue  # to be skipped
            name = body[33:33 + body[32]].decode()
            at = 33 + body[32]
            data = body[at + 1 + body[at]:]
            code, text = (0, b"showing: " + data[:100]) if name == "display" else (2, b"no handler for signal " + name.encode())
            ack = body[:16] + struct.pack(">BH", code, len(text)) + text
            s.out += struct.pack(">BI", 0x81, len(ack)) + ack
            if code == 0:
                self.acked += 1
        s.closing = s.ended

    def echo(self, s):
        s.out += s.got
        s.count += len(s.got)
        s.got = b""
        s.closing = s.ended
        if s.ended:
            self.echoed = max(self.echoed, s.count)

    def send_blob(self, blob):
        s = self.streams[1] = Stream(1, self.answered)
        s.out += b"\1\4echo" + blob
        s.closing = True
        self.frame(UPDATE, SYN, 1, 0)
        self.push(s)

    def answered(self, s):
        if len(s.got) >= 3 and s.got[0] != 0:
            raise OSError(f"service echo: code {s.got[0]}: {s.got[3:].decode()}")
        if s.ended:
            self.back = s.got[3:]


def main(url, rogue, ca, cert, key, proxy=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and name
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(ca)
    context.load_cert_chain(cert, key)
    context.set_alpn_protocols(["atls-mux/1"])
    try:
        Inner(WebSocket(rogue, proxy), context)
        sys.exit("the rogue server was not refused")
    except ssl.SSLCertVerificationError as e:
        print("rogue refused:", e.verify_message, flush=True)
    try:
        session = Session(Inner(WebSocket(url, proxy), context))
        print("ready, device", session.ready["device"], flush=True)
        while session.acked < 1 or session.echoed < BLOB:
            session.step()
        blob = os.urandom(BLOB)
        session.send_blob(blob)
        while session.back is None:
            session.step()
        got = hashlib.sha256(session.back).hexdigest()
        if got != hashlib.sha256(blob).hexdigest():
            sys.exit("another blob came back")
        session.inner.close()
        print("verified", len(session.back), "bytes, sha256", got, flush=True)
    except (OSError, EOFError) as e:  # ssl.SSLError is an OSError
        sys.exit(f"session: {e}")


if __name__ == "__main__":
    if len(sys.argv) < 6:
        sys.exit("usage: mux.py URL ROGUE-URL CA CERT KEY [PROXY]")
    main(*sys.argv[1:])
