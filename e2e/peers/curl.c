/* A plain client of the POST carrier that speaks atls-http/1: OpenSSL with memory
 * BIOs for the inner TLS, libcurl for the requests. It was written from
 * docs/PROTOCOL.md, section 14.
 *
 *	cc -o curl curl.c -lssl -lcrypto -lcurl
 *	curl URL ROGUE-URL CA CERT KEY [PROXY]
 *
 * It refuses the server at ROGUE-URL, stores 1 MiB at the service http of the
 * server at URL, fetches it back, and exits 0 when that is the same.
 */
#include <curl/curl.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <strings.h>

enum { FIRST_BODY = 16 << 10, BODY = 64 << 10, BLOB = 1 << 20 };

struct buffer {
	unsigned char data[BODY + 1];
	size_t n;
};

struct peer {
	const char *url, *proxy;
	CURL *curl;
	SSL *ssl;
	BIO *in, *out; /* the records that come, and those that go */
	char session[129]; /* the locator; empty before the first answer */
	int ours; /* the answer's type is application/atls */
	char reason[512];
};

static int fail(struct peer *p, const char *what, const char *why) {
	snprintf(p->reason, sizeof p->reason, "%s: %s", what, why);
	return -1;
}

static size_t on_body(char *d, size_t one, size_t n, void *to) {
	struct buffer *b = to;
	if (b->n + n > BODY)
		return 0;
	memcpy(b->data + b->n, d, n);
	b->n += n;
	return one * n;
}

static size_t on_header(char *d, size_t one, size_t n, void *to) {
	struct peer *p = to;
	if (n > 14 && strncasecmp(d, "Atls-Session: ", 14) == 0 && n - 16 < sizeof p->session && !p->session[0])
		memcpy(p->session, d + 14, n - 16); /* less CR LF */
	if (n >= 30 && strncasecmp(d, "Content-Type: application/atls", 30) == 0)
		p->ours = 1;
	return one * n;
}

/* exchange posts what TLS has to send, and gives it what the answer brings. */
static int exchange(struct peer *p, int end) {
	static struct buffer up, down;
	up.n = down.n = 0;
	int got = BIO_read(p->out, up.data, p->session[0] ? BODY : FIRST_BODY);
	up.n = got > 0 ? got : 0;
	p->ours = 0;
	struct curl_slist *h = curl_slist_append(NULL, "Content-Type: application/atls");
	h = curl_slist_append(h, "Cache-Control: no-store, no-transform");
	h = curl_slist_append(h, "Expect:"); /* no 100-continue */
	/* Waiting for bytes, the answer may be held; with more to send it must not be. */
	if (up.n == 0)
		h = curl_slist_append(h, "Prefer: wait=20");
	else if (BIO_pending(p->out) > 0 || up.n == BODY)
		h = curl_slist_append(h, "Prefer: wait=0");
	if (end)
		h = curl_slist_append(h, "Atls-Fin: 1");
	if (p->session[0]) {
		char line[160];
		snprintf(line, sizeof line, "Atls-Session: %s", p->session);
		h = curl_slist_append(h, line);
	}
	curl_easy_setopt(p->curl, CURLOPT_HTTPHEADER, h);
	curl_easy_setopt(p->curl, CURLOPT_POSTFIELDSIZE, (long)up.n);
	curl_easy_setopt(p->curl, CURLOPT_POSTFIELDS, up.data);
	curl_easy_setopt(p->curl, CURLOPT_WRITEDATA, &down);
	CURLcode rc = curl_easy_perform(p->curl);
	curl_slist_free_all(h);
	long status = 0;
	curl_easy_getinfo(p->curl, CURLINFO_RESPONSE_CODE, &status);
	if (rc != CURLE_OK)
		return fail(p, "carrier", curl_easy_strerror(rc));
	if (status != 200 || !p->ours || !p->session[0]) {
		snprintf(p->reason, sizeof p->reason, "carrier: answered %ld: %.*s", status, down.n < 200 ? (int)down.n : 200, (char *)down.data);
		return -1;
	}
	BIO_write(p->in, down.data, (int)down.n);
	return 0;
}

/* again says whether an operation that returned r is to be repeated. */
static int again(struct peer *p, int r, const char *what) {
	int e = SSL_get_error(p->ssl, r);
	if (e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE)
		return exchange(p, 0) == 0;
	long v = SSL_get_verify_result(p->ssl);
	if (v != X509_V_OK)
		fail(p, what, X509_verify_cert_error_string(v));
	else if (e == SSL_ERROR_ZERO_RETURN)
		fail(p, what, "closed by the server");
	else {
		const char *why = ERR_reason_error_string(ERR_peek_last_error());
		fail(p, what, why ? why : "cut off");
	}
	return 0;
}

static int send_all(struct peer *p, const void *data, size_t n) {
	for (size_t at = 0; at < n;) {
		size_t k = n - at < 16384 ? n - at : 16384;
		int r = SSL_write(p->ssl, (const char *)data + at, (int)k);
		if (r <= 0) {
			if (!again(p, r, "inner write"))
				return -1;
			continue;
		}
		at += r;
		while (BIO_pending(p->out) >= BODY)
			if (exchange(p, 0) < 0)
				return -1;
	}
	return 0;
}

static int receive(struct peer *p, void *to, int n) {
	for (;;) {
		int r = SSL_read(p->ssl, to, n);
		if (r > 0)
			return r;
		if (!again(p, r, "inner read"))
			return -1;
	}
}

/* response reads a response with a Content-Length and returns its status. */
static int response(struct peer *p, unsigned char *body, size_t want) {
	char head[8192], *end = NULL;
	size_t n = 0;
	while (!end && n < sizeof head - 1) {
		int r = receive(p, head + n, 1);
		if (r < 0)
			return -1;
		n += r;
		head[n] = 0;
		end = strstr(head, "\r\n\r\n");
	}
	int status = 0;
	if (!end || sscanf(head, "HTTP/1.1 %d", &status) != 1)
		return fail(p, "response", "not HTTP/1.1");
	for (size_t at = 0; at < want;) {
		int r = receive(p, body + at, (int)(want - at));
		if (r < 0)
			return -1;
		at += r;
	}
	return status;
}

/* open does the inner handshake. */
static int open_inner(struct peer *p, SSL_CTX *ctx) {
	p->curl = curl_easy_init();
	curl_easy_setopt(p->curl, CURLOPT_URL, p->url);
	if (p->proxy)
		curl_easy_setopt(p->curl, CURLOPT_PROXY, p->proxy);
	/* The outer TLS is transport: whoever answers may. The inner one decides. */
	curl_easy_setopt(p->curl, CURLOPT_SSL_VERIFYPEER, 0L);
	curl_easy_setopt(p->curl, CURLOPT_SSL_VERIFYHOST, 0L);
	curl_easy_setopt(p->curl, CURLOPT_TIMEOUT, 40L);
	curl_easy_setopt(p->curl, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(p->curl, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(p->curl, CURLOPT_HEADERDATA, p);
	p->ssl = SSL_new(ctx);
	p->in = BIO_new(BIO_s_mem());
	p->out = BIO_new(BIO_s_mem());
	SSL_set_bio(p->ssl, p->in, p->out);
	SSL_set_connect_state(p->ssl);
	SSL_set_tlsext_host_name(p->ssl, "atls-ws");
	SSL_set1_host(p->ssl, "atls-ws"); /* the name that the certificate must have */
	SSL_set_alpn_protos(p->ssl, (const unsigned char *)"\x0b" "atls-http/1", 12);
	for (;;) {
		int r = SSL_do_handshake(p->ssl);
		if (r == 1)
			break;
		if (!again(p, r, "inner handshake"))
			return -1;
	}
	const unsigned char *alpn;
	unsigned n;
	SSL_get0_alpn_selected(p->ssl, &alpn, &n);
	if (n != 11 || memcmp(alpn, "atls-http/1", 11) != 0)
		return fail(p, "inner handshake", "the server did not select atls-http/1");
	return 0;
}

static void end_inner(struct peer *p) {
	SSL_shutdown(p->ssl);
	if (p->session[0])
		exchange(p, 1);
	SSL_free(p->ssl);
	curl_easy_cleanup(p->curl);
}

static unsigned char blob[BLOB], back[BLOB], sum[2][32];

static int round_trip(struct peer *p) {
	char head[256];
	RAND_bytes(blob, BLOB);
	/* A small request first: its response, or an alert in its place, says whether
	 * the server accepts our certificate. */
	static const char first[] = "HEAD /blob HTTP/1.1\r\nHost: atls\r\n\r\n";
	if (send_all(p, first, sizeof first - 1) < 0 || response(p, NULL, 0) < 0)
		return -1;
	int n = snprintf(head, sizeof head, "PUT /blob HTTP/1.1\r\nHost: atls\r\nContent-Length: %d\r\n\r\n", BLOB);
	if (send_all(p, head, n) < 0 || send_all(p, blob, BLOB) < 0)
		return -1;
	int status = response(p, NULL, 0);
	if (status != 204)
		return status < 0 ? -1 : fail(p, "PUT", "status is not 204");
	n = snprintf(head, sizeof head, "GET /blob HTTP/1.1\r\nHost: atls\r\n\r\n");
	if (send_all(p, head, n) < 0)
		return -1;
	status = response(p, back, BLOB);
	if (status != 200)
		return status < 0 ? -1 : fail(p, "GET", "status is not 200");
	EVP_Digest(blob, BLOB, sum[0], NULL, EVP_sha256(), NULL);
	EVP_Digest(back, BLOB, sum[1], NULL, EVP_sha256(), NULL);
	if (memcmp(sum[0], sum[1], 32) != 0)
		return fail(p, "GET", "another blob came back");
	return 0;
}

int main(int argc, char **argv) {
	if (argc < 6) {
		fprintf(stderr, "usage: curl URL ROGUE-URL CA CERT KEY [PROXY]\n");
		return 2;
	}
	curl_global_init(CURL_GLOBAL_DEFAULT);
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
	if (SSL_CTX_load_verify_locations(ctx, argv[3], NULL) != 1 || SSL_CTX_use_certificate_chain_file(ctx, argv[4]) != 1 ||
	    SSL_CTX_use_PrivateKey_file(ctx, argv[5], SSL_FILETYPE_PEM) != 1) {
		ERR_print_errors_fp(stderr);
		return 1;
	}
	struct peer rogue = {.url = argv[2], .proxy = argc > 6 ? argv[6] : NULL};
	if (open_inner(&rogue, ctx) == 0 || SSL_get_verify_result(rogue.ssl) == X509_V_OK) {
		fprintf(stderr, "the rogue server was not refused for its certificate: %s\n", rogue.reason);
		return 1;
	}
	printf("rogue refused: %s\n", rogue.reason);
	end_inner(&rogue); /* it is told why, by the alert */
	ERR_clear_error();

	struct peer p = {.url = argv[1], .proxy = argc > 6 ? argv[6] : NULL};
	if (open_inner(&p, ctx) < 0 || round_trip(&p) < 0) {
		fprintf(stderr, "%s\n", p.reason);
		return 1;
	}
	end_inner(&p);
	printf("verified %d bytes, sha256 ", BLOB);
	for (int i = 0; i < 32; i++)
		printf("%02x", sum[1][i]);
	printf("\n");
	SSL_CTX_free(ctx);
	curl_global_cleanup();
	return 0;
}
