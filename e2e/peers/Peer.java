// A client of the WebSocket carrier that speaks atls-http/1: SSLEngine for the
// inner TLS, java.net.http.WebSocket for the carrier, nothing but the JDK. It was
// written from docs/PROTOCOL.md, section 14.
//
//	javac -d DIR Peer.java
//	java -cp DIR Peer URL ROGUE-URL CA CERT KEY [PROXY]
//
// It refuses the server at ROGUE-URL, stores 1 MiB at the service http of the
// server at URL, fetches it back, and exits 0 when that is the same.
import java.io.ByteArrayInputStream;
import java.io.EOFException;
import java.io.IOException;
import java.net.*;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.security.*;
import java.security.cert.*;
import java.security.spec.PKCS8EncodedKeySpec;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import javax.net.ssl.*;

public class Peer {
	static final int BLOB = 1 << 20, MESSAGE = 64 << 10, PATIENCE = 40;

	// Carrier is the WebSocket as a stream of bytes.
	static class Carrier implements WebSocket.Listener {
		private static final byte[] END = {};
		private final BlockingQueue<byte[]> come = new LinkedBlockingQueue<>();
		private String why = "the carrier ended";
		private WebSocket ws;

		Carrier(String url, String proxy) throws Exception {
			SSLContext anybody = SSLContext.getInstance("TLS");
			// The outer TLS is transport: whoever answers may. The inner one decides.
			anybody.init(null, new TrustManager[] {new X509ExtendedTrustManager() {
				public void checkClientTrusted(X509Certificate[] c, String t) {}
				public void checkServerTrusted(X509Certificate[] c, String t) {}
				public void checkClientTrusted(X509Certificate[] c, String t, Socket s) {}
				public void checkServerTrusted(X509Certificate[] c, String t, Socket s) {}
				public void checkClientTrusted(X509Certificate[] c, String t, SSLEngine e) {}
				public void checkServerTrusted(X509Certificate[] c, String t, SSLEngine e) {}
				public X509Certificate[] getAcceptedIssuers() { return new X509Certificate[0]; }
			}}, null);
			HttpClient.Builder b = HttpClient.newBuilder().sslContext(anybody).connectTimeout(Duration.ofSeconds(PATIENCE));
			if (proxy != null) {
				URI p = URI.create(proxy);
				b.proxy(ProxySelector.of(new InetSocketAddress(p.getHost(), p.getPort())));
			}
			try {
				ws = b.build().newWebSocketBuilder().subprotocols("atls.v1").buildAsync(URI.create(url), this).get(PATIENCE, TimeUnit.SECONDS);
			} catch (ExecutionException e) {
				throw new IOException("carrier: " + e.getCause(), e.getCause());
			}
			if (!ws.getSubprotocol().equals("atls.v1")) throw new IOException("carrier: subprotocol \"" + ws.getSubprotocol() + "\" was selected");
		}

		public CompletionStage<?> onBinary(WebSocket w, ByteBuffer data, boolean last) {
			byte[] b = new byte[data.remaining()];
			data.get(b);
			if (b.length > 0) come.add(b); // where a message ends means nothing
			w.request(1);
			return null;
		}

		public CompletionStage<?> onText(WebSocket w, CharSequence data, boolean last) {
			return end("a text message came");
		}

		public CompletionStage<?> onClose(WebSocket w, int status, String reason) {
			return end("closed with " + status + " " + reason);
		}

		public void onError(WebSocket w, Throwable e) { end(e.toString()); }

		private CompletionStage<?> end(String text) {
			why = text;
			come.add(END);
			return null;
		}

		byte[] receive() throws Exception {
			byte[] b = come.poll(PATIENCE, TimeUnit.SECONDS);
			if (b == null) throw new IOException("carrier: nothing comes");
			if (b == END) throw new EOFException("carrier: " + why);
			return b;
		}

		void send(ByteBuffer b) throws Exception {
			while (b.hasRemaining()) {
				ByteBuffer part = b.slice(b.position(), Math.min(MESSAGE, b.remaining()));
				b.position(b.position() + part.remaining());
				try {
					ws.sendBinary(part, true).get(PATIENCE, TimeUnit.SECONDS);
				} catch (ExecutionException e) {
					end("cannot send: " + e.getCause()); // why is in what came before: an alert, perhaps
				}
			}
		}

		void close() {
			try {
				ws.sendClose(WebSocket.NORMAL_CLOSURE, "").get(2, TimeUnit.SECONDS);
			} catch (Exception e) {
				ws.abort();
			}
		}
	}

	// Inner is the inner TLS connection over a carrier.
	static class Inner {
		private final Carrier carrier;
		private final SSLEngine engine;
		private ByteBuffer in = ByteBuffer.allocate(256 << 10).flip(); // records
		private final ByteBuffer out, app;

		Inner(Carrier carrier, SSLContext context) throws Exception {
			this.carrier = carrier;
			engine = context.createSSLEngine("atls-ws", 443); // the name that the certificate must have
			engine.setUseClientMode(true);
			SSLParameters p = engine.getSSLParameters();
			p.setProtocols(new String[] {"TLSv1.3"});
			p.setApplicationProtocols(new String[] {"atls-http/1"});
			p.setEndpointIdentificationAlgorithm("HTTPS");
			p.setServerNames(List.of(new SNIHostName("atls-ws")));
			engine.setSSLParameters(p);
			out = ByteBuffer.allocate(engine.getSession().getPacketBufferSize());
			app = ByteBuffer.allocate(engine.getSession().getApplicationBufferSize()).flip();
			engine.beginHandshake();
			try {
				while (engine.getHandshakeStatus() != SSLEngineResult.HandshakeStatus.NOT_HANDSHAKING) step(ByteBuffer.allocate(0));
			} catch (SSLException e) {
				tell();
				throw e;
			}
			if (!"atls-http/1".equals(engine.getApplicationProtocol())) throw new IOException("the server did not select atls-http/1");
		}

		// step does what the engine wants next.
		private void step(ByteBuffer from) throws Exception {
			switch (engine.getHandshakeStatus()) {
			case NEED_TASK:
				for (Runnable r; (r = engine.getDelegatedTask()) != null;) r.run();
				break;
			case NEED_WRAP:
				wrap(from);
				break;
			default:
				unwrap();
			}
		}

		private void wrap(ByteBuffer from) throws Exception {
			out.clear();
			engine.wrap(from, out);
			carrier.send(out.flip());
		}

		private void unwrap() throws Exception {
			app.compact();
			SSLEngineResult r;
			try {
				r = engine.unwrap(in, app);
			} finally {
				app.flip();
			}
			switch (r.getStatus()) {
			case BUFFER_UNDERFLOW:
				byte[] more = carrier.receive();
				in.compact();
				if (in.remaining() < more.length) in = ByteBuffer.allocate(2 * (in.capacity() + more.length)).put(in.flip());
				in.put(more).flip();
				break;
			case CLOSED:
				throw new EOFException("closed by the server");
			default:
			}
		}

		// tell sends the alert that an error leaves behind.
		private void tell() {
			try {
				while (engine.getHandshakeStatus() == SSLEngineResult.HandshakeStatus.NEED_WRAP) wrap(ByteBuffer.allocate(0));
			} catch (Exception e) {
				// the server sees a cut then
			}
		}

		void write(byte[] b) throws Exception {
			ByteBuffer from = ByteBuffer.wrap(b);
			while (from.hasRemaining()) {
				if (engine.getHandshakeStatus() == SSLEngineResult.HandshakeStatus.NEED_TASK) step(from);
				else wrap(from);
			}
		}

		int read() throws Exception {
			while (!app.hasRemaining()) step(ByteBuffer.allocate(0));
			return app.get() & 0xff;
		}

		void read(byte[] to) throws Exception {
			for (int n = 0; n < to.length;) {
				while (!app.hasRemaining()) step(ByteBuffer.allocate(0));
				int k = Math.min(app.remaining(), to.length - n);
				app.get(to, n, k);
				n += k;
			}
		}

		// request sends an HTTP/1.1 request and returns the response's body.
		byte[] request(String method, byte[] body, int status) throws Exception {
			write((method + " /blob HTTP/1.1\r\nHost: atls\r\nContent-Length: " + body.length + "\r\n\r\n").getBytes(StandardCharsets.US_ASCII));
			write(body);
			StringBuilder head = new StringBuilder();
			while (head.indexOf("\r\n\r\n") < 0) head.append((char) read());
			String[] lines = head.toString().split("\r\n");
			if (!lines[0].startsWith("HTTP/1.1 " + status)) throw new IOException(method + ": answered " + lines[0]);
			int length = 0;
			for (String l : lines)
				if (!method.equals("HEAD") && l.toLowerCase(Locale.ROOT).startsWith("content-length:")) length = Integer.parseInt(l.substring(15).trim());
			byte[] answer = new byte[length];
			read(answer);
			return answer;
		}

		void close() throws Exception {
			engine.closeOutbound();
			while (!engine.isOutboundDone()) wrap(ByteBuffer.allocate(0));
			carrier.close();
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
		KeyManagerFactory keys = KeyManagerFactory.getInstance("SunX509");
		keys.init(own, new char[0]);
		TrustManagerFactory roots = TrustManagerFactory.getInstance("PKIX");
		roots.init(trust);
		X509ExtendedKeyManager chosen = (X509ExtendedKeyManager) keys.getKeyManagers()[0];
		SSLContext c = SSLContext.getInstance("TLS");
		c.init(new KeyManager[] {new X509ExtendedKeyManager() { // sends it whatever authorities the server names
			public String chooseEngineClientAlias(String[] t, Principal[] i, SSLEngine e) { return "own"; }
			public String chooseClientAlias(String[] t, Principal[] i, Socket s) { return "own"; }
			public String chooseServerAlias(String t, Principal[] i, Socket s) { return null; }
			public String[] getClientAliases(String t, Principal[] i) { return new String[] {"own"}; }
			public String[] getServerAliases(String t, Principal[] i) { return null; }
			public X509Certificate[] getCertificateChain(String a) { return chosen.getCertificateChain(a); }
			public PrivateKey getPrivateKey(String a) { return chosen.getPrivateKey(a); }
		}}, roots.getTrustManagers(), null);
		return c;
	}

	public static void main(String[] args) throws Exception {
		if (args.length < 5) {
			System.err.println("usage: Peer URL ROGUE-URL CA CERT KEY [PROXY]");
			System.exit(2);
		}
		String proxy = args.length > 5 ? args[5] : null;
		SSLContext context = context(args[2], args[3], args[4]);
		try {
			new Inner(new Carrier(args[1], proxy), context);
			System.err.println("the rogue server was not refused");
			System.exit(1);
		} catch (SSLHandshakeException e) {
			if (!(e.getCause() instanceof CertificateException) && !e.getMessage().contains("PKIX")) {
				System.err.println("the rogue server was refused for another reason: " + e.getMessage());
				System.exit(1);
			}
			System.out.println("rogue refused: " + e.getMessage());
		}
		try {
			Inner inner = new Inner(new Carrier(args[0], proxy), context);
			byte[] blob = new byte[BLOB];
			new SecureRandom().nextBytes(blob);
			// A small request first: its response, or an alert in its place, says whether
			// the server accepts our certificate.
			inner.request("HEAD", new byte[0], 200);
			inner.request("PUT", blob, 204);
			byte[] back = inner.request("GET", new byte[0], 200);
			inner.close();
			byte[] want = MessageDigest.getInstance("SHA-256").digest(blob), got = MessageDigest.getInstance("SHA-256").digest(back);
			if (back.length != BLOB || !Arrays.equals(want, got)) throw new IOException("another blob came back");
			System.out.println("verified " + back.length + " bytes, sha256 " + HexFormat.of().formatHex(got));
			System.exit(0); // HttpClient's threads do not end by themselves
		} catch (Exception e) {
			System.err.println("inner: " + e.getMessage());
			System.exit(1);
		}
	}
}
