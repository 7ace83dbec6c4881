/* A server of the POST carrier that speaks atls-mux/1: OpenSSL with memory BIOs, and
 * as much of HTTP/1.1 and yamux as one device needs. It was written from
 * docs/PROTOCOL.md, section 15.
 *
 *	cc -o server server.c -lssl -lcrypto -lpthread
 *	server CA CERT KEY
 *
 * It listens on a loopback port, which it prints, and takes one session at a time.
 * It pushes a signal called display to the device and prints the ack.
 */
#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

enum { BODY = 64 << 10, MAX = 1 << 20 };
enum { DATA, UPDATE, PING, SYN = 1, ACK = 2, FIN = 4 };

static SSL_CTX *ctx;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

/* The session, under lock. */
static char locator[33];
static SSL *ssl;
static BIO *in, *out;
static unsigned long long up, down; /* taken so far; the place of kept[0] */
static unsigned char kept[MAX]; /* given and not acknowledged, then not given */
static size_t nkept;
static unsigned polls; /* only the newest is held */
static int greeted, failed, ended;
static unsigned char app[MAX]; /* what is not understood yet */
static size_t napp;

static unsigned u32(const unsigned char *b) { return (unsigned)b[0] << 24 | b[1] << 16 | b[2] << 8 | b[3]; }

static void put32(unsigned char *b, unsigned v) {
	b[0] = v >> 24, b[1] = v >> 16, b[2] = v >> 8, b[3] = v;
}

static void frame(int type, int flags, unsigned stream, unsigned length, const void *body) {
	unsigned char h[12] = {0, type, 0, flags};
	put32(h + 4, stream);
	put32(h + 8, length);
	SSL_write(ssl, h, 12);
	if (body)
		SSL_write(ssl, body, (int)length);
}

/* greet answers Hello. */
static void greet(void) {
	char device[256] = "", json[512];
	X509 *peer = SSL_get0_peer_certificate(ssl);
	X509_NAME_get_text_by_NID(X509_get_subject_name(peer), NID_commonName, device, sizeof device);
	int n = snprintf(json + 4, sizeof json - 4,
		"{\"ready\":{\"session\":\"%.8s\",\"device\":\"%s\",\"keepalive_ns\":25000000000,\"streams\":16,\"time\":\"2026-01-01T00:00:00Z\"}}",
		locator, device);
	put32((unsigned char *)json, n);
	SSL_write(ssl, json, 4 + n);
	printf("hello of %s\n", device);
	greeted = 1;
	/* A signal stream, the server's first: even numbers. */
	frame(UPDATE, SYN, 2, 0, NULL);
	frame(DATA, 0, 2, 9, "\1\7signals");
}

/* on_data is what the device says on the signal stream. */
static void on_data(const unsigned char *b, size_t n) {
	static const char text[] = "hello pump";
	if (n == 3 && b[0] == 0) { /* the stream is accepted */
		unsigned char f[5 + 32 + 8 + 1 + sizeof text - 1] = {1};
		put32(f + 1, sizeof f - 5);
		RAND_bytes(f + 5, 16);
		memcpy(f + 37, "\7display\0", 9);
		memcpy(f + 46, text, sizeof text - 1);
		frame(DATA, 0, 2, sizeof f, f);
	} else if (n >= 24 && b[0] == 0x81)
		printf("ack %d: %.*s\n", b[21], (int)n - 24, b + 24);
	else
		printf("the signal stream is refused: %.*s\n", (int)n, b);
}

/* understand takes whole messages from app. */
static void understand(void) {
	for (size_t want;; memmove(app, app + want, napp -= want)) {
		want = greeted ? 12 : 4;
		if (napp < want)
			return;
		if (!greeted) {
			want += u32(app);
			if (want > 4 + (16 << 10))
				failed = 1;
			if (failed || napp < want)
				return;
			greet();
			continue;
		}
		unsigned stream = u32(app + 4), length = u32(app + 8);
		if (app[1] == DATA)
			want += length;
		if (want > sizeof app)
			failed = 1;
		if (failed || napp < want)
			return;
		if (app[1] == PING && (app[3] & SYN))
			frame(PING, ACK, 0, length, NULL);
		else if (stream % 2 == 1 && (app[3] & SYN)) { /* we serve nothing */
			frame(UPDATE, ACK, stream, 0, NULL);
			frame(DATA, 0, stream, 3, "\2\0");
			frame(UPDATE, FIN, stream, 0, NULL);
		} else if (app[1] == DATA && stream == 2)
			on_data(app + 12, length);
	}
}

/* pump lets TLS work on what has come, and collects what it has to send. */
static void pump(void) {
	ERR_clear_error();
	int r = SSL_is_init_finished(ssl) ? 1 : SSL_accept(ssl);
	while (r == 1 && !failed) {
		int k = SSL_read(ssl, app + napp, (int)(sizeof app - napp));
		if (k <= 0) {
			r = k;
			break;
		}
		napp += k;
		understand();
	}
	int e = SSL_get_error(ssl, r);
	if (e == SSL_ERROR_ZERO_RETURN && !ended)
		printf("the device has gone\n");
	else if (r <= 0 && e != SSL_ERROR_WANT_READ && !failed) {
		long v = SSL_get_verify_result(ssl);
		const char *why = ERR_reason_error_string(ERR_peek_last_error());
		printf("refused: %s\n", v != X509_V_OK ? X509_verify_cert_error_string(v) : why ? why : "cut off");
		failed = 1;
	}
	if (e == SSL_ERROR_ZERO_RETURN)
		ended = 1;
	fflush(stdout);
	int k = BIO_read(out, kept + nkept, (int)(sizeof kept - nkept));
	if (k > 0)
		nkept += k;
	pthread_cond_broadcast(&changed);
}

static void begin(void) {
	unsigned char id[16];
	RAND_bytes(id, sizeof id);
	for (int i = 0; i < 16; i++)
		snprintf(locator + 2 * i, 3, "%02x", id[i]);
	SSL_free(ssl);
	ssl = SSL_new(ctx);
	in = BIO_new(BIO_s_mem());
	out = BIO_new(BIO_s_mem());
	SSL_set_bio(ssl, in, out);
	SSL_set_accept_state(ssl);
	up = down = nkept = napp = greeted = failed = ended = 0;
}

/* request is what the headers say. */
struct request {
	char locator[33];
	unsigned long long offset, ack;
	size_t length;
	int ours, offsets, fin, wait; /* -1: it does not ask for bytes */
};

static void header(struct request *q, const char *l) {
	if (strncasecmp(l, "Content-Length:", 15) == 0)
		q->length = strtoul(l + 15, NULL, 10);
	else if (strncasecmp(l, "Content-Type: application/atls", 30) == 0)
		q->ours = 1;
	else if (strncasecmp(l, "Atls-Session:", 13) == 0)
		sscanf(l + 13, " %32s", q->locator);
	else if (strncasecmp(l, "Atls-Offset:", 12) == 0)
		q->offset = strtoull(l + 12, NULL, 10), q->offsets = 1;
	else if (strncasecmp(l, "Atls-Ack:", 9) == 0)
		q->ack = strtoull(l + 9, NULL, 10);
	else if (strncasecmp(l, "Atls-Fin: 1", 11) == 0)
		q->fin = 1;
	else if (strncasecmp(l, "Prefer: wait=", 13) == 0)
		q->wait = atoi(l + 13) < 20 ? atoi(l + 13) : 20;
}

/* answer does what a request asks for, and returns the status. It writes the head,
 * and the body after it. */
static size_t answer(struct request *q, const unsigned char *body, char *to) {
	int status = 200, first = !q->locator[0], fin = 0;
	size_t n = 0;
	unsigned long long at = 0;
	pthread_mutex_lock(&lock);
	if (!q->ours)
		status = 415;
	else if (!q->offsets)
		status = 400; /* plain clients are not served here */
	else if (q->length > (first ? 16 << 10 : BODY))
		status = 413;
	else if (first)
		begin();
	else if (strcmp(q->locator, locator) != 0)
		status = 404;
	if (status == 200 && q->offset > up)
		status = 409;
	if (status == 200 && (q->ack > down + nkept))
		status = 400;
	if (status == 200) {
		if (q->offset + q->length > up) { /* less what has come before */
			size_t skip = up - q->offset;
			BIO_write(in, body + skip, (int)(q->length - skip));
			up = q->offset + q->length;
			pump();
		}
		if (q->ack > down) {
			memmove(kept, kept + (q->ack - down), nkept -= q->ack - down);
			down = q->ack;
		}
		if (q->fin)
			ended = 1;
		at = down;
		if (q->wait >= 0 && q->ack >= down) {
			struct timespec until;
			clock_gettime(CLOCK_REALTIME, &until);
			until.tv_sec += first && q->wait > 1 ? 1 : q->wait;
			unsigned mine = ++polls;
			pthread_cond_broadcast(&changed);
			while (q->ack >= down && down + nkept == q->ack && !failed && !ended && polls == mine && strcmp(first ? locator : q->locator, locator) == 0)
				if (pthread_cond_timedwait(&changed, &lock, &until) != 0)
					break;
			if (q->ack >= down && polls == mine) {
				at = q->ack;
				n = down + nkept - q->ack < BODY ? down + nkept - q->ack : BODY;
			} else
				at = down;
		}
		fin = (failed || ended) && at + n == down + nkept;
	}
	int k = snprintf(to, 512, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nCache-Control: no-store, no-transform\r\nAtls-Ack: %llu\r\n",
		status, status == 200 ? "OK" : "Refused", status == 200 ? "application/atls" : "text/plain", n, up);
	if (status == 200)
		k += snprintf(to + k, 256, "Atls-Offset: %llu\r\n%s", at, fin ? "Atls-Fin: 1\r\n" : "");
	if (status == 200 && first)
		k += snprintf(to + k, 256, "Atls-Session: %s\r\nSet-Cookie: atls=%s; HttpOnly; SameSite=Strict\r\n", locator, locator);
	k += snprintf(to + k, 8, "\r\n");
	if (n)
		memcpy(to + k, kept + (at - down), n);
	pthread_mutex_unlock(&lock);
	return k + n;
}

/* serve is a connection: one request after the other. */
static void *serve(void *arg) {
	int fd = *(int *)arg;
	free(arg);
	FILE *f = fdopen(fd, "r"), *w = fdopen(dup(fd), "w");
	unsigned char *body = malloc(BODY);
	char line[8192], *reply = malloc(BODY + 1024);
	while (f && w) {
		struct request q = {.wait = -1};
		if (!fgets(line, sizeof line, f) || strncmp(line, "POST ", 5) != 0)
			break;
		while (fgets(line, sizeof line, f) && line[0] != '\r')
			header(&q, line);
		if (q.length > BODY || fread(body, 1, q.length, f) != q.length)
			break;
		size_t n = answer(&q, body, reply);
		if (fwrite(reply, 1, n, w) != n || fflush(w) != 0)
			break;
	}
	free(body);
	free(reply);
	fclose(f);
	fclose(w);
	return NULL;
}

static int select_alpn(SSL *s, const unsigned char **to, unsigned char *n, const unsigned char *offered, unsigned noffered, void *arg) {
	(void)s, (void)arg;
	if (SSL_select_next_proto((unsigned char **)to, n, (const unsigned char *)"\x0a" "atls-mux/1", 11, offered, noffered) == OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_OK;
	return SSL_TLSEXT_ERR_ALERT_FATAL;
}

int main(int argc, char **argv) {
	if (argc != 4) {
		fprintf(stderr, "usage: server CA CERT KEY\n");
		return 2;
	}
	ctx = SSL_CTX_new(TLS_server_method());
	SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	SSL_CTX_set_session_id_context(ctx, (const unsigned char *)"atls", 4);
	SSL_CTX_set_alpn_select_cb(ctx, select_alpn, NULL);
	if (SSL_CTX_load_verify_locations(ctx, argv[1], NULL) != 1 || SSL_CTX_use_certificate_chain_file(ctx, argv[2]) != 1 ||
	    SSL_CTX_use_PrivateKey_file(ctx, argv[3], SSL_FILETYPE_PEM) != 1) {
		ERR_print_errors_fp(stderr);
		return 1;
	}
	int l = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof a;
	if (bind(l, (struct sockaddr *)&a, sizeof a) != 0 || listen(l, 16) != 0 || getsockname(l, (struct sockaddr *)&a, &n) != 0) {
		perror("listen");
		return 1;
	}
	printf("listening addr=127.0.0.1:%d\n", ntohs(a.sin_port));
	fflush(stdout);
	for (;;) {
		int *c = malloc(sizeof *c);
		pthread_t t;
		if ((*c = accept(l, NULL, NULL)) < 0 || pthread_create(&t, NULL, serve, c) != 0)
			return 1;
		pthread_detach(t);
	}
}
