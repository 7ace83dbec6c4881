// A server of the POST carrier that speaks atls-mux/1: SSLEngine for the inner TLS,
// com.sun.net.httpserver for the carrier, and as much of yamux as one device needs.
// It was written from docs/PROTOCOL.md, section 15.
//
//	javac -d DIR PostServer.java
//	java -cp DIR PostServer CA CERT KEY
//
// It listens on a loopback port, which it prints, and takes any number of sessions. It
// pushes a signal called display to each device and prints the ack.
import com.sun.net.httpserver.*;
import java.io.*;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.security.*;
import java.security.cert.*;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.*;
import java.util.concurrent.*;
import javax.net.ssl.*;

public class PostServer {
	static final int BODY = 64 << 10, FIRST = 16 << 10;
	static final int DATA = 0, UPDATE = 1, PING = 2, SYN = 1, ACK = 2, FIN = 4;
	static final Map<String, Session> sessions = new ConcurrentHashMap<>();
	static SSLContext context;

	// Session is a device's. Its lock guards everything.
	static class Session {
		final String locator = UUID.randomUUID().toString();
		private final SSLEngine engine = context.createSSLEngine();
		private ByteBuffer in = ByteBuffer.allocate(128 << 10).flip(); // records
		private final ByteBuffer record, app;
		private long up, down; // taken so far; the place of kept's first byte
		private byte[] kept = {}; // given and not acknowledged, then not given
		private int polls; // only the newest is held
		private boolean greeted, ended;

		Session() throws Exception {
			engine.setUseClientMode(false);
			SSLParameters p = engine.getSSLParameters();
			p.setProtocols(new String[] {"TLSv1.3"});
			p.setApplicationProtocols(new String[] {"atls-mux/1"});
			p.setNeedClientAuth(true);
			engine.setSSLParameters(p);
			record = ByteBuffer.allocate(engine.getSession().getPacketBufferSize());
			app = ByteBuffer.allocate(2 * engine.getSession().getApplicationBufferSize() + (512 << 10));
			engine.beginHandshake();
		}

		// keep collects what TLS has to send.
		private void wrap(ByteBuffer from) throws SSLException {
			do {
				record.clear();
				engine.wrap(from, record);
				record.flip();
				int n = kept.length;
				kept = Arrays.copyOf(kept, n + record.remaining());
				record.get(kept, n, record.remaining());
			} while (from.hasRemaining());
		}

		// pump lets TLS work on what has come.
		private void pump() {
			try {
				while (!ended) {
					switch (engine.getHandshakeStatus()) {
					case NEED_TASK:
						engine.getDelegatedTask().run();
						continue;
					case NEED_WRAP:
						wrap(ByteBuffer.allocate(0));
						continue;
					default:
					}
					SSLEngineResult r = engine.unwrap(in, app);
					if (r.getStatus() == SSLEngineResult.Status.BUFFER_UNDERFLOW) return;
					if (r.getStatus() == SSLEngineResult.Status.CLOSED) {
						System.out.println("the device has gone");
						ended = true;
					}
					app.flip();
					understand();
					app.compact();
				}
			} catch (Exception e) {
				if (!ended) System.out.println("refused: " + e.getMessage());
				ended = true;
				try {
					while (engine.getHandshakeStatus() == SSLEngineResult.HandshakeStatus.NEED_WRAP) wrap(ByteBuffer.allocate(0)); // the alert
				} catch (SSLException x) {
					// the device sees a cut then
				}
			}
		}

		private void frame(int type, int flags, int stream, int length, byte[] body) throws SSLException {
			wrap(ByteBuffer.allocate(12 + body.length).put((byte) 0).put((byte) type).putShort((short) flags).putInt(stream).putInt(length).put(body).flip());
		}

		// understand takes whole messages from app.
		private void understand() throws Exception {
			for (app.mark(); app.remaining() >= (greeted ? 12 : 4); app.mark()) {
				if (!greeted) {
					int n = app.getInt();
					if (n < 0 || n > 16 << 10) throw new IOException("a greeting that is too large");
					if (app.remaining() < n) break;
					app.position(app.position() + n); // Hello asks for nothing that we have
					greet();
					continue;
				}
				int version = app.get(), type = app.get(), flags = app.getShort(), stream = app.getInt(), length = app.getInt();
				if (version != 0 || type > 3) throw new IOException("yamux: a frame that is not allowed");
				byte[] body = {};
				if (type == DATA) {
					if (app.remaining() < length) break;
					app.get(body = new byte[length]);
				}
				if (type == PING && (flags & SYN) != 0) frame(PING, ACK, 0, length, new byte[0]);
				else if (stream % 2 == 1 && (flags & SYN) != 0) { // we serve nothing
					frame(UPDATE, ACK, stream, 0, new byte[0]);
					frame(DATA, 0, stream, 3, new byte[] {2, 0, 0});
					frame(UPDATE, FIN, stream, 0, new byte[0]);
				} else if (type == DATA && stream == 2) onData(body);
			}
			app.reset();
		}

		private void greet() throws Exception {
			if (!"atls-mux/1".equals(engine.getApplicationProtocol())) throw new IOException("no application protocol");
			String name = ((X509Certificate) engine.getSession().getPeerCertificates()[0]).getSubjectX500Principal().getName();
			String device = name.replaceAll("^.*CN=([^,]*).*$", "$1");
			byte[] json = ("{\"ready\":{\"session\":\"" + locator.substring(0, 8) + "\",\"device\":\"" + device
				+ "\",\"keepalive_ns\":25000000000,\"streams\":16,\"time\":\"" + java.time.Instant.now() + "\"}}").getBytes(StandardCharsets.UTF_8);
			wrap(ByteBuffer.allocate(4 + json.length).putInt(json.length).put(json).flip());
			System.out.println("hello of " + device);
			greeted = true;
			// A signal stream, the server's first: even numbers.
			frame(UPDATE, SYN, 2, 0, new byte[0]);
			frame(DATA, 0, 2, 9, "\1\7signals".getBytes(StandardCharsets.US_ASCII));
		}

		// onData is what the device says on the signal stream.
		private void onData(byte[] b) throws Exception {
			if (b.length == 3 && b[0] == 0) { // the stream is accepted
				byte[] text = "hello pump".getBytes(StandardCharsets.US_ASCII);
				ByteBuffer f = ByteBuffer.allocate(5 + 32 + 8 + 1 + text.length);
				byte[] id = new byte[16];
				new SecureRandom().nextBytes(id);
				f.put((byte) 1).putInt(f.capacity() - 5).put(id).putLong(0).putLong(0);
				f.put((byte) 7).put("display".getBytes(StandardCharsets.US_ASCII)).put((byte) 0).put(text);
				frame(DATA, 0, 2, f.capacity(), f.array());
			} else if (b.length >= 24 && (b[0] & 0xff) == 0x81) System.out.println("ack " + b[21] + ": " + new String(b, 24, b.length - 24, StandardCharsets.UTF_8));
			else System.out.println("the signal stream is refused");
		}

		// Answer is what a request gets.
		record Answer(int status, byte[] body, long offset, long ack, boolean fin) {}

		synchronized Answer answer(long offset, long ack, byte[] body, int wait, boolean fin, boolean first) throws InterruptedException {
			if (offset > up) return new Answer(409, new byte[0], 0, up, false);
			if (ack > down + kept.length) return new Answer(400, new byte[0], 0, up, false);
			if (offset + body.length > up) { // less what has come before
				int skip = (int) (up - offset);
				in.compact();
				if (in.remaining() < body.length - skip) in = ByteBuffer.allocate(2 * in.capacity()).put(in.flip());
				in.put(body, skip, body.length - skip).flip();
				up = offset + body.length;
				pump();
			}
			if (ack > down) {
				kept = Arrays.copyOfRange(kept, (int) (ack - down), kept.length);
				down = ack;
			}
			ended |= fin;
			notifyAll();
			long at = down;
			int n = 0;
			if (wait >= 0 && ack >= down) {
				long until = System.nanoTime() + TimeUnit.SECONDS.toNanos(first ? Math.min(wait, 1) : wait);
				int mine = ++polls;
				for (long left; ack >= down && ack == down + kept.length && !ended && polls == mine && (left = until - System.nanoTime()) > 0;) TimeUnit.NANOSECONDS.timedWait(this, left);
				if (ack >= down && polls == mine) {
					at = ack;
					n = (int) Math.min(BODY, down + kept.length - ack);
				} else at = down;
			}
			int from = (int) (at - down);
			return new Answer(200, Arrays.copyOfRange(kept, from, from + n), at, up, ended && at + n == down + kept.length);
		}
	}

	static long number(Headers h, String name) {
		String v = h.getFirst(name);
		return v == null ? 0 : Long.parseLong(v);
	}

	static void handle(HttpExchange x) throws IOException {
		try (x) {
			Headers h = x.getRequestHeaders(), reply = x.getResponseHeaders();
			String locator = h.getFirst("Atls-Session");
			byte[] body = x.getRequestBody().readNBytes(BODY + 1);
			Session s = locator == null ? null : sessions.get(locator);
			int status = !x.getRequestMethod().equals("POST") ? 405
				: !"application/atls".equals(h.getFirst("Content-Type")) ? 415
				: h.getFirst("Atls-Offset") == null ? 400 // plain clients are not served here
				: body.length > (locator == null ? FIRST : BODY) ? 413
				: locator != null && s == null ? 404 : 200;
			if (status != 200) {
				x.sendResponseHeaders(status, -1);
				return;
			}
			boolean first = s == null;
			if (first) sessions.put((s = new Session()).locator, s);
			String prefer = h.getFirst("Prefer");
			int wait = prefer != null && prefer.startsWith("wait=") ? Math.min(20, Integer.parseInt(prefer.substring(5))) : -1;
			Session.Answer a = s.answer(number(h, "Atls-Offset"), number(h, "Atls-Ack"), body, wait, "1".equals(h.getFirst("Atls-Fin")), first);
			reply.set("Cache-Control", "no-store, no-transform");
			reply.set("Atls-Ack", Long.toString(a.ack()));
			if (a.status() == 200) {
				reply.set("Content-Type", "application/atls");
				reply.set("Atls-Offset", Long.toString(a.offset()));
				if (a.fin()) reply.set("Atls-Fin", "1");
				if (first) {
					reply.set("Atls-Session", s.locator);
					reply.set("Set-Cookie", "atls=" + s.locator + "; HttpOnly; SameSite=Strict");
				}
			}
			x.sendResponseHeaders(a.status(), a.body().length == 0 ? -1 : a.body().length);
			if (a.body().length > 0) x.getResponseBody().write(a.body());
		} catch (IOException e) {
			throw e;
		} catch (Exception e) {
			throw new IOException(e);
		}
	}

	static SSLContext context(String ca, String cert, String key) throws Exception {
		CertificateFactory f = CertificateFactory.getInstance("X.509");
		KeyStore trust = KeyStore.getInstance("PKCS12"), own = KeyStore.getInstance("PKCS12");
		trust.load(null, null);
		own.load(null, null);
		int n = 0;
		for (java.security.cert.Certificate c : f.generateCertificates(new ByteArrayInputStream(Files.readAllBytes(Path.of(ca))))) trust.setCertificateEntry("ca" + n++, c);
		String pem = Files.readString(Path.of(key)).replaceAll("-----[A-Z ]+-----|\\s", "");
		PrivateKey k = KeyFactory.getInstance("EC").generatePrivate(new PKCS8EncodedKeySpec(Base64.getDecoder().decode(pem)));
		own.setKeyEntry("own", k, new char[0], f.generateCertificates(new ByteArrayInputStream(Files.readAllBytes(Path.of(cert)))).toArray(new java.security.cert.Certificate[0]));
		KeyManagerFactory keys = KeyManagerFactory.getInstance("PKIX");
		keys.init(own, new char[0]);
		TrustManagerFactory roots = TrustManagerFactory.getInstance("PKIX");
		roots.init(trust);
		SSLContext c = SSLContext.getInstance("TLS");
		c.init(keys.getKeyManagers(), roots.getTrustManagers(), null);
		return c;
	}

	public static void main(String[] args) throws Exception {
		if (args.length != 3) {
			System.err.println("usage: PostServer CA CERT KEY");
			System.exit(2);
		}
		context = context(args[0], args[1], args[2]);
		HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 16);
		server.createContext("/.well-known/atls", PostServer::handle);
		server.setExecutor(Executors.newCachedThreadPool()); // requests are held
		server.start();
		System.out.println("listening addr=127.0.0.1:" + server.getAddress().getPort());
	}
}
